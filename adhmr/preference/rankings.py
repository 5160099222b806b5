"""By what hypotheses of an image are ranked: the reward model, the exact error, and rankings that need no training.
Every ranking is a function of one context and gives (N, M) values, the larger the better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adhmr.body.hypotheses import Hypotheses
from adhmr.config.model import EncoderConfig
from adhmr.data.randomness import generator_for
from adhmr.errors import AdhmrError
from adhmr.models.encoder import ImageFeatures
from adhmr.preference.scoring import Scoring


@dataclass
class RankingContext:
    """What a ranking may look at."""

    keys: list[str]  # N sample keys
    images: Tensor  # (N, 3, S, S) uint8
    features: ImageFeatures  # of the base model's encoder
    hypotheses: Hypotheses
    crop_size: int
    seed: int
    scorer: Scoring | None = None
    errors: Tensor | None = None  # (N, M) PVE in metres, where labels are exact


def by_scorer(context: RankingContext) -> Tensor:
    """Raw score of the reward model."""
    if context.scorer is None:
        raise AdhmrError("ranking 'scorer' needs a reward model: set scorer: to its weights")
    return context.scorer(context.images, context.features, context.hypotheses)


def by_error(context: RankingContext) -> Tensor:
    """Negative PVE against the label."""
    if context.errors is None:
        raise AdhmrError("ranking 'error' needs labels with pose and shape")
    return -context.errors


def by_chance(context: RankingContext) -> Tensor:
    """The control: a random value, keyed by the image."""
    count = context.hypotheses.uvd.shape[1]
    values = [generator_for(context.seed, "random ranking", key).random(count, np.float32) for key in context.keys]
    return torch.from_numpy(np.stack(values))


def _distance(hypotheses: Tensor, other: Tensor, crop_size: int) -> Tensor:
    """(N, M) mean distance of the joints uvd (N, M, 29, 3) and (N, 1, 29, 3) in pixels, depth scaled as in the codec:
    a metre counts as half a crop."""
    difference = hypotheses - other
    across, along = difference[..., :2], difference[..., 2:] * (crop_size / 2.0)
    return torch.cat([across, along], -1).norm(dim=-1).mean(-1)


def by_mode(context: RankingContext) -> Tensor:
    """Closeness to the zero-noise hypothesis."""
    uvd = context.hypotheses.uvd
    return -_distance(uvd, uvd[:, :1], context.crop_size)


def by_mean(context: RankingContext) -> Tensor:
    """Closeness to the mean of all hypotheses of the image."""
    uvd = context.hypotheses.uvd
    return -_distance(uvd, uvd.mean(1, keepdim=True), context.crop_size)


def by_joints2d(context: RankingContext) -> Tensor:
    """Closeness to the encoder's own 2-D joints: mean distance in pixels."""
    own = (context.features.joints2d + 1.0) * context.crop_size / 2.0  # (N, 29, 2) pixels
    return -(context.hypotheses.uvd[..., :2] - own[:, None]).norm(dim=-1).mean(-1)


def by_joints3d(context: RankingContext) -> Tensor:
    """Closeness to the encoder's own 2-D joints and depths."""
    if context.features.depth is None:
        raise AdhmrError("ranking 'joints3d' needs an encoder that estimates depth (depth_head); joints2d does not")
    own = (context.features.joints2d + 1.0) * context.crop_size / 2.0  # (N, 29, 2) pixels
    own = torch.cat([own, context.features.depth[..., None]], -1)[:, None]  # (N, 1, 29, 3)
    return -_distance(context.hypotheses.uvd, own, context.crop_size)


RANKINGS: dict[str, Callable[[RankingContext], Tensor]] = {
    "scorer": by_scorer,
    "error": by_error,
    "random": by_chance,
    "mode": by_mode,
    "mean": by_mean,
    "joints2d": by_joints2d,
    "joints3d": by_joints3d,
}


def training_free(encoder: EncoderConfig) -> list[str]:
    """The rankings that need neither training nor labels, of those that a base model with this encoder can give."""
    return ["mode", "mean", "joints2d", *(["joints3d"] if encoder.depth_head else [])]
