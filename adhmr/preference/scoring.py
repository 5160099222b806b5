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

    def __init__(self, scorer: HMRScorer, base: BaseModel, precision: str, per_call: int):
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
            raw = torch.empty(hypotheses.uvd.shape[:2], device=images.device)
            for rows, columns in blocks(*raw.shape, self._per_call):
                some = hypotheses.block(rows, columns)
                raw[rows, columns] = self.scorer.score(seen.index(rows), some, tuple(images.shape[-2:])).float()
        return raw
