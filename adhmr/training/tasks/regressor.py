"""Task "regressor": train the deterministic regressor on labelled people, exact or pseudo-labelled."""

from __future__ import annotations

from typing import Any

import roma
import torch
from torch import Tensor, nn

from adhmr.body.body_model import BodyModel
from adhmr.body.camera import joints_from_uvd
from adhmr.config.regressor import RegressorStage
from adhmr.data.transforms import PersonCrop
from adhmr.evaluation.regressors import validation_errors
from adhmr.models.regressor import Regressor
from adhmr.models.weights import load_encoder_weights
from adhmr.objectives.denoising import betas_loss, encoder_losses
from adhmr.objectives.regression import joints3d_loss, projection_loss, rotation_loss, rotation_weight
from adhmr.training.frozen import leave_out, whole
from adhmr.training.parameter_groups import encoder_groups
from adhmr.training.task import Batch, Task


class RegressorTask(Task):
    kind = "regressor"

    def __init__(self, config: RegressorStage):
        self.config = config
        torch.manual_seed(config.seed)
        self.model = Regressor(config.model)
        if config.encoder_weights is not None:
            load_encoder_weights(self.model.encoder, config.encoder_weights)
        if config.freeze_encoder:
            leave_out(self.model, "encoder")  # its batch statistics, too, stay as they were trained
        self.body = BodyModel(config.body)

    def prepare(self, device: torch.device) -> None:
        self.model.encoder.to(device)
        self.body.to(device)

    def parameter_groups(self) -> list[dict[str, Any]]:
        groups = [{"params": list(self.model.head.parameters()), "lr_scale": 1.0}]
        if not self.config.freeze_encoder:
            scales = self.config.encoder_lr_scale, self.config.encoder_head_lr_scale
            groups += encoder_groups(self.model.encoder, *scales)
        return groups

    def transform(self) -> PersonCrop:
        data = self.config.data
        return PersonCrop(data.crop, data.augment, data.sets)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        weights, size, seen = self.config.loss, batch["image"].shape[-1], batch["uvd_weight"]
        features, predicted = model(batch["image"], batch["intrinsics"])
        joints = self.body.joints29(predicted.rotations, predicted.betas)  # (N, 29, 3)
        joints = joints + (predicted.root - joints[:, 0])[:, None]
        truth = joints_from_uvd(batch["uvd"], batch["intrinsics"], batch["root_depth"])
        rotations = roma.rotvec_to_rotmat(batch["pose"])
        known = rotation_weight(batch["has_pose"], batch["twist_weight"])
        parts = {
            "rotations": rotation_loss(predicted.rotations, rotations, known),
            "betas": betas_loss(predicted.betas, batch["betas"], batch["betas_weight"]),
            "joints3d": joints3d_loss(joints, truth, seen[..., 2]),
            "joints2d": projection_loss(joints, batch["intrinsics"], batch["uvd"][..., :2], seen[..., 0], size),
        }
        wanted = weights.encoder_joints2d > 0, weights.heatmap > 0, weights.depth > 0
        own = encoder_losses(features, batch, *wanted)
        parts |= {"encoder_joints2d" if name == "joints2d" else name: part for name, part in own.items()}
        return sum(getattr(weights, name) * part for name, part in parts.items()), parts

    def checkpointed_blocks(self) -> list[nn.Module]:
        trained_encoder = [] if self.config.freeze_encoder else self.model.encoder.blocks
        return [*trained_encoder, *self.model.head.blocks]

    def exported(self, module: nn.Module) -> nn.Module:
        return whole(module)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        validation, crop = self.config.validation, self.config.data.crop
        if validation is None:
            return {}
        if validation.padding is not None:
            crop = crop.model_copy(update={"padding": validation.padding})
        return validation_errors(model, self.body, validation.path, crop, self.config.validation_limit)

    def weights_metadata(self) -> dict[str, Any]:
        return {"crop_padding": self.config.data.crop.padding}

    def model_config(self) -> dict[str, Any]:
        return self.config.model.model_dump(mode="json")
