"""Task "scorer": train HMR-Scorer to rank disturbed ground truth by four errors (paper section 4.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adhmr.body.body_model import BodyModel
from adhmr.body.vertex_subset import VertexSubset
from adhmr.config.losses import NoiseConfig
from adhmr.config.stages import ScorerStage
from adhmr.data.randomness import RandomKey
from adhmr.data.schema import RawSample
from adhmr.data.transforms import LabelledCrop
from adhmr.errors import AdhmrError
from adhmr.models.base_model import BaseModel
from adhmr.models.scorer import HMRScorer
from adhmr.models.weights import load_encoder_weights, load_model
from adhmr.objectives.denoising import encoder_losses
from adhmr.objectives.ranking import (
    WORST_ALIGNED_ERROR,
    WORST_ERROR,
    calibration_entropy,
    calibration_loss,
    rank_loss,
)
from adhmr.preference.hypotheses import POSE_SIZE
from adhmr.preference.mesh_errors import ERROR_NAMES
from adhmr.preference.noised_truth import MeasuredHypotheses, draw_pose_noise, noised_truth
from adhmr.preference.own_hypotheses import joined, own_hypotheses
from adhmr.training.frozen import leave_out, whole
from adhmr.training.parameter_groups import encoder_groups
from adhmr.training.task import Batch, Task


class ScorerTransform:
    """Crop, augment, and draw the noise of the hypotheses: of `disturbed` ground truths, of `sampled` ones."""

    def __init__(self, crop: LabelledCrop, noise: NoiseConfig, disturbed: int, sampled: int):
        self.crop, self.noise, self.disturbed, self.sampled = crop, noise, disturbed, sampled

    def __call__(self, sample: RawSample, key: RandomKey) -> dict[str, Any]:
        item = self.crop(sample, key)
        item["pose_noise"] = draw_pose_noise(self.noise, self.disturbed, key.rng("pose noise"))  # (M, 85)
        if self.sampled:
            noise = key.rng("hypotheses").standard_normal((self.sampled, POSE_SIZE), np.float32)
            noise[0] = 0.0  # the hypothesis that is looked at most
            item["hypothesis_noise"] = noise  # (M, 133)
        return item


def ordered_share(raw: Tensor, errors: Tensor) -> Tensor:
    """The share of an image's pairs of hypotheses that raw scores (N, M) put in the order of errors (N, M)."""
    first, second = torch.triu_indices(raw.shape[1], raw.shape[1], 1, device=raw.device)
    ordered = (raw[:, first] > raw[:, second]) == (errors[:, first] < errors[:, second])
    return ordered.float().mean()


# A scorer reads no shape: these would wait for a gradient that never comes.
SHAPE_PARTS = ("neck.betas.", "neck.betas_map.")


class ScorerTask(Task):
    kind = "scorer"

    def __init__(self, config: ScorerStage):
        self.config = config
        torch.manual_seed(config.seed)
        self.model = HMRScorer(config.model)
        if config.encoder_weights is not None:
            load_encoder_weights(self.model.encoder, config.encoder_weights)
        if config.freeze_encoder:
            leave_out(self.model, "encoder")  # its batch statistics, too, stay as they were trained
        for name, parameter in self.model.encoder.named_parameters():
            if name.startswith(SHAPE_PARTS):
                parameter.requires_grad_(False)
        self.base = None if config.sampled is None else self._load_base()
        self.body = BodyModel(config.body)
        self.error_body = VertexSubset(self.body, config.metric_vertices or None)

    def _load_base(self) -> BaseModel:
        """The frozen model whose hypotheses are ranked; raises AdhmrError when its crops are not the scorer's."""
        path, crop = self.config.sampled.base, self.config.data.crop
        base = load_model(path, "base").requires_grad_(False)
        if (crop.size, crop.aspect) != (base.config.crop_size, 1.0):
            found = f"{crop.size} px, aspect {crop.aspect}"
            raise AdhmrError(f"{path}: was trained on crops of {base.config.crop_size} px, the scorer's are {found}")
        return base

    def prepare(self, device: torch.device) -> None:
        self.model.encoder.to(device)
        self.body.to(device)
        self.error_body.to(device)
        if self.base is not None:
            self.base.to(device)

    def parameter_groups(self) -> list[dict[str, Any]]:
        inside = set(self.model.encoder.parameters())
        groups = [{"params": [p for p in self.model.parameters() if p not in inside], "lr_scale": 1.0}]
        scales = self.config.encoder_lr_scale, self.config.encoder_head_lr_scale
        return groups + encoder_groups(self.model.encoder, *scales)  # none of a frozen encoder

    def transform(self) -> ScorerTransform:
        data = self.config.data
        crop = LabelledCrop(data.crop, data.augment, data.sets)
        sampled = 0 if self.config.sampled is None else self.config.sampled.count
        return ScorerTransform(crop, self.config.noise, self.config.hypotheses - sampled, sampled)

    def hypotheses(self, batch: Batch) -> MeasuredHypotheses:
        """Disturbed ground truths, and the base model's own where there is one."""
        disturbed = noised_truth(self.body, self.error_body, batch, batch["pose_noise"])
        if self.base is None:
            return disturbed
        own = own_hypotheses(
            *(self.base, self.body, self.error_body, batch, batch["hypothesis_noise"]),
            precision=self.config.train.precision,
            ik=self.config.sampled.ik,
        )
        return joined(disturbed, own)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        weights = self.config.loss
        truth = self.hypotheses(batch)
        features, raw = model(batch["image"], truth.hypotheses)
        parts = {
            name: sum(rank_loss(raw[:, k], truth.errors[:, k, index], weights.sigma) for k in self._kinds)
            for index, name in enumerate(ERROR_NAMES)
        }
        loss = sum(getattr(weights, name) * part for name, part in parts.items())
        for name, form in (("calibration", calibration_loss), ("cross_entropy", calibration_entropy)):
            if getattr(weights, name):
                parts[name] = self._calibration(form, raw, truth.errors)
                loss = loss + getattr(weights, name) * parts[name]
        wanted = weights.joints2d > 0, weights.heatmap > 0, weights.depth > 0
        for name, part in encoder_losses(features, batch, *wanted).items():
            parts[name] = part
            loss = loss + getattr(weights, name) * part
        with torch.no_grad():
            pve = truth.errors[..., 0]
            parts["pve_mm"] = 1000.0 * pve.mean()
            parts["pairs_ordered"] = ordered_share(raw[:, self._kinds[0]], pve[:, self._kinds[0]])
            if self.base is not None:
                parts["own_pairs_ordered"] = ordered_share(raw[:, self._kinds[1]], pve[:, self._kinds[1]])
        return loss, parts

    @property
    def _kinds(self) -> list[slice]:
        """The hypotheses of each kind. Ranks are taken within a kind: across, it would be enough to tell what was
        sampled from what was not."""
        sampled = 0 if self.config.sampled is None else self.config.sampled.count
        disturbed = self.config.hypotheses - sampled
        return [slice(0, disturbed), *([slice(disturbed, None)] if sampled else [])]

    @staticmethod
    def _calibration(form: Callable[[Tensor, Tensor, float], Tensor], raw: Tensor, errors: Tensor) -> Tensor:
        """Mean over the four errors; those after Procrustes alignment use half the range."""
        worst = [WORST_ALIGNED_ERROR if name.startswith("pa_") else WORST_ERROR for name in ERROR_NAMES]
        return torch.stack([form(raw, errors[..., index], worst[index]) for index in range(len(ERROR_NAMES))]).mean()

    def checkpointed_blocks(self) -> list[nn.Module]:
        trained_encoder = [] if self.config.freeze_encoder else self.model.encoder.blocks
        return [*trained_encoder, *self.model.head.blocks]

    def exported(self, module: nn.Module) -> nn.Module:
        return whole(module)

    def weights_metadata(self) -> dict[str, Any]:
        return {"crop_padding": self.config.data.crop.padding}

    def model_config(self) -> dict[str, Any]:
        return self.config.model.model_dump(mode="json")
