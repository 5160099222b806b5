"""A base model's own hypotheses and their errors, for the scorer to learn from: they are what it will be asked about.
Disturbed ground truths are in noised_truth.py; hypotheses that are written to shards are generator.py's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adhmr.body.body_model import BodyModel
from adhmr.body.hypotheses import Hypotheses
from adhmr.models.base_model import BaseModel
from adhmr.preference.hypotheses import pose_hypotheses, sample_hypotheses
from adhmr.preference.mesh_errors import errors_of_hypotheses
from adhmr.preference.noised_truth import MeasuredHypotheses


@torch.no_grad()
def own_hypotheses(
    base: BaseModel,
    body: BodyModel,
    error_body: torch.nn.Module,
    batch: dict[str, Any],
    noise: Tensor,
    precision: str = "fp32",
    ik: str = "naive",
) -> MeasuredHypotheses:
    """Hypotheses of a labelled batch from `noise` (N, M, 133), posed at the label's root depth with the predicted
    shape, and what they are wrong by. `error_body` is `body`, or a VertexSubset of it for cheaper vertex errors."""
    size = batch["image"].shape[-1]
    features = base.encoder(batch["image"])
    sampled = sample_hypotheses(base, features, noise, size, precision)
    rotations = pose_hypotheses(body, sampled, features.betas, batch["intrinsics"], batch["root_depth"], ik)
    sampled = sampled._replace(rotations=rotations)
    return MeasuredHypotheses(sampled, errors_of_hypotheses(error_body, sampled, features.betas, batch))


def joined(first: MeasuredHypotheses, second: MeasuredHypotheses) -> MeasuredHypotheses:
    """Both kinds as the hypotheses of one set of images."""
    parts = (torch.cat([a.float(), b.float()], 1) for a, b in zip(first.hypotheses, second.hypotheses, strict=True))
    return MeasuredHypotheses(Hypotheses(*parts), torch.cat([first.errors, second.errors], 1))
