"""The reward model as generation uses it: in bounded calls, and with the base model's own features where both have the
same encoder. The networks are in adhmr.models.scorer."""

from __future__ import annotations

import torch
from torch import Tensor

from adhmr.body.hypotheses import Hypotheses
from adhmr.models.base_model import BaseModel
from adhmr.models.encoder import ImageFeatures
from adhmr.models.scorer import HMRScorer
from adhmr.preference.hypotheses import blocks
from adhmr.preference.records import encoder_hash


class Scoring:
    """A scorer for hypotheses of a base model. Attributes: scorer; shared, whether the encoder is the base model's,
    which then is held once and never run here."""

    def __init__(self, scorer: HMRScorer, base: BaseModel, precision: str = "fp32", per_call: int | None = None):
        self.scorer, self._precision, self._per_call = scorer, precision, per_call
        size = base.config.crop_size
        self.shared = (
            scorer.config.encoder == base.config.encoder
            and scorer.config.crop_shape == (size, size)
            and encoder_hash(scorer.encoder) == encoder_hash(base.encoder)
        )
        if self.shared:
            scorer.encoder = base.encoder

    def __call__(self, images: Tensor, features: ImageFeatures, hypotheses: Hypotheses) -> Tensor:
        """Raw scores (N, M) of hypotheses in crops (N, 3, S, S), of which the base model's encoder gave `features`."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self._precision == "bf16"):
            images, hypotheses = self.scorer.framed(images, hypotheses)
            seen = features if self.shared else self.scorer.features(images)
            return raw_scores(self.scorer, seen, hypotheses, images.shape[-2:], self._per_call)


def raw_scores(
    scorer: HMRScorer, features: ImageFeatures, hypotheses: Hypotheses, crop_shape: torch.Size, per_call: int | None
) -> Tensor:
    """(N, M) of hypotheses in the pixels of crops (height, width), of which the scorer's encoder gave `features`; at
    most `per_call` hypotheses in one call of the network."""
    raw = torch.empty(hypotheses.uvd.shape[:2], device=hypotheses.uvd.device)
    for rows, columns in blocks(*raw.shape, per_call):
        some = hypotheses.block(rows, columns)
        raw[rows, columns] = scorer.score(features.index(rows), some, tuple(crop_shape)).float()
    return raw
