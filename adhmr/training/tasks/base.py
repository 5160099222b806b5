"""Task "base": train HypoNet (image encoder and diffusion denoiser) on labelled people."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adhmr.body.body_model import BodyModel
from adhmr.body.codec import PoseCodec
from adhmr.config.stages import BaseStage
from adhmr.data.randomness import RandomKey, generator_for
from adhmr.data.schema import RawSample
from adhmr.data.transforms import PersonCrop
from adhmr.diffusion.schedule import NUM_TIMESTEPS, LinearSchedule
from adhmr.evaluation.quick import VALIDATION_SEED, quick_errors
from adhmr.models.base_model import BaseModel
from adhmr.models.weights import load_encoder_weights
from adhmr.objectives.denoising import betas_loss, depth_loss, heatmap_loss, joints2d_loss, noise_loss
from adhmr.training.task import Batch, Task


def draw_timesteps(seed: int, position: int, draws: int) -> np.ndarray:
    """(draws,) timesteps of a position, antithetic: draws 2k and 2k+1 of the whole stream are t and T - 1 - t."""
    numbers = position * draws + np.arange(draws)
    first = np.array([generator_for(seed, "timestep", int(pair)).integers(NUM_TIMESTEPS) for pair in numbers // 2])
    return np.where(numbers % 2 == 0, first, NUM_TIMESTEPS - 1 - first)


class BaseTransform:
    """Crop, augment, and draw the sample's timesteps and noise: all keyed by its position in the stream."""

    def __init__(self, crop: PersonCrop, draws: int):
        self.crop, self.draws = crop, draws
        self.codec = PoseCodec(crop.crop.size)

    def __call__(self, sample: RawSample, key: RandomKey) -> dict[str, Any]:
        item = self.crop(sample, key)
        x_joint, x_twist = self.codec.encode(item["uvd"], item["twists"])
        item["x0"] = np.concatenate([x_joint, x_twist]).astype(np.float32)  # (133,)
        item["t"] = draw_timesteps(key.seed, key.position, self.draws)  # (K,)
        item["noise"] = key.rng("noise").standard_normal((self.draws, len(item["x0"])), np.float32)  # (K, 133)
        return item


class BaseTask(Task):
    kind = "base"

    def __init__(self, config: BaseStage):
        self.config = config
        torch.manual_seed(config.seed)
        self.model = BaseModel(config.model)
        if config.encoder_weights is not None:
            load_encoder_weights(self.model.encoder, config.encoder_weights)
        if config.freeze_encoder:
            self.model.encoder.requires_grad_(False)
        self.schedule = LinearSchedule()

    def parameter_groups(self) -> list[dict[str, Any]]:
        groups = [{"params": list(self.model.denoiser.parameters()), "lr_scale": 1.0}]
        if not self.config.freeze_encoder:
            groups.append({"params": list(self.model.encoder.parameters()), "lr_scale": self.config.encoder_lr_scale})
        return groups

    def transform(self) -> BaseTransform:
        return BaseTransform(PersonCrop(self.config.data.crop, self.config.data.augment), self.config.noise_draws)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        if self.config.freeze_encoder:
            self.model.encoder.eval()  # its batch statistics stay as they were trained
        weights = self.config.loss
        t, noise, crop_size = batch["t"], batch["noise"], batch["image"].shape[-1]
        x_t = self.schedule.q_sample(batch["x0"][:, None].expand_as(noise), t, noise)  # (N, K, 133)
        split = batch["uvd"][0].numel()  # 87 numbers of joints, then the twists
        features, eps_joint, eps_twist = model(batch["image"], x_t[..., :split], x_t[..., split:], t)
        scaled = self.config.model.denoiser.preconditioning == "edm"
        level_joint, level_twist = self.model.denoiser.loss_weights(t) if scaled else (None, None)
        target2d = 2.0 * batch["uvd"][..., :2] / crop_size - 1.0  # (N, 29, 2) in [-1, 1]
        seen = batch["uvd_weight"]
        parts = {
            "joints": noise_loss(eps_joint, noise[..., :split], seen.flatten(1), level_joint),
            "twists": noise_loss(eps_twist, noise[..., split:], batch["twist_weight"].flatten(1), level_twist),
            "betas": betas_loss(features.betas, batch["betas"], batch["betas_weight"]),
            "joints2d": joints2d_loss(features.joints2d, target2d, seen[..., :2]),
        }
        if weights.heatmap:
            parts["heatmap"] = heatmap_loss(features.heatmap_logits, target2d, seen[..., 0])
        if weights.depth and features.depth is not None:
            parts["depth"] = depth_loss(features.depth, batch["uvd"][..., 2], seen[..., 2])
        return sum(getattr(weights, name) * part for name, part in parts.items()), parts

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        if self.config.validation is None:
            return {}
        path, limit = self.config.validation.path, self.config.validation_limit
        body = BodyModel(self.config.body)
        return quick_errors(model, path, self.config.data.crop, limit, VALIDATION_SEED, body)

    def model_config(self) -> dict[str, Any]:
        return self.config.model.model_dump(mode="json")
