"""Several scorers that look at the same crops: encoders that are the same are held once and run once a batch. What the
scores are used for is in scorers.py; a single scorer of generation is in adhmr.preference.scoring."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from adhmr.body.hypotheses import Hypotheses
from adhmr.models.base_model import BaseModel
from adhmr.models.encoder import ImageFeatures
from adhmr.models.scorer import HMRScorer
from adhmr.preference.records import encoder_hash
from adhmr.preference.scoring import raw_scores


class ScorerPanel:
    """Scorers by name, and perhaps the base model whose hypotheses they are asked about."""

    def __init__(self, base: BaseModel | None, precision: str, per_call: int):
        self.scorers: dict[str, HMRScorer] = {}
        self.precision, self.per_call = precision, per_call
        self.base_encoder = None if base is None else base.encoder
        self._encoders = {} if base is None else {_identity(base): base.encoder}

    def add(self, name: str, scorer: HMRScorer) -> None:
        """Its encoder is given up for the same one of another scorer or of the base model."""
        scorer.encoder = self._encoders.setdefault(_identity(scorer), scorer.encoder)
        self.scorers[name] = scorer

    def look(self, images: Tensor) -> Look:
        return Look(self, images)


def _identity(model: BaseModel | HMRScorer) -> tuple[str, str]:
    """Equal for two models whose encoders give the same of the same crops."""
    return model.config.encoder.model_dump_json(), encoder_hash(model.encoder)


class Look:
    """One batch of crops (N, 3, H, W), of which each encoder makes features when they are first asked for."""

    def __init__(self, panel: ScorerPanel, images: Tensor):
        self._panel, self._images = panel, images
        self._seen: dict[tuple[int, torch.Size], ImageFeatures | Tensor] = {}

    @torch.no_grad()
    def base_features(self) -> ImageFeatures:
        with self._autocast():
            return self._encoded(self._panel.base_encoder, self._images)

    @torch.no_grad()
    def scores(self, names: Iterable[str], hypotheses: Hypotheses) -> dict[str, Tensor]:
        """Raw scores (N, M) by scorer."""
        raw = {}
        with self._autocast():
            for name in names:
                scorer = self._panel.scorers[name]
                framed, moved = scorer.framed(self._images, hypotheses)
                features = scorer.adapted(self._encoded(scorer.encoder, framed))
                raw[name] = raw_scores(scorer, features, moved, framed.shape[-2:], self._panel.per_call)
        return raw

    def _encoded(self, encoder: torch.nn.Module, images: Tensor) -> ImageFeatures | Tensor:
        which = (id(encoder), images.shape)  # the shape says how the crops were framed
        if which not in self._seen:
            self._seen[which] = encoder(images)
        return self._seen[which]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._images.device.type, torch.bfloat16, enabled=self._panel.precision == "bf16")
