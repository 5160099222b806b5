"""Task "base": train HypoNet (image encoder and diffusion denoiser) on labelled people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adhmr.body.body_model import BodyModel
from adhmr.body.codec import PoseCodec
from adhmr.config.common import check_crop
from adhmr.config.stages import BaseStage
from adhmr.data.randomness import RandomKey, generator_for
from adhmr.data.schema import RawSample
from adhmr.data.transforms import PersonCrop
from adhmr.diffusion.schedule import NUM_TIMESTEPS, LinearSchedule
from adhmr.errors import AdhmrError
from adhmr.evaluation.quick import VALIDATION_SEED, quick_errors
from adhmr.models.base_model import BaseModel
from adhmr.models.encoder import ImageEncoder
from adhmr.models.weights import load_encoder_weights, load_model
from adhmr.objectives.denoising import betas_loss, encoder_losses, noise_loss
from adhmr.training.frozen import leave_out, whole
from adhmr.training.parameter_groups import encoder_groups
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


def load_mean_betas(encoder: ImageEncoder, path: Path) -> None:
    """Fills in what an encoder's betas are counted from, of the official h36m_mean_beta.npy or a file like it."""
    own = getattr(encoder.neck, "mean_betas", None)
    if own is None:
        raise AdhmrError("mean_betas is for encoders with neck hrnet and a betas head; this is another: set it to null")
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise AdhmrError(f"mean_betas: {path} cannot be read as a .npy file of numbers ({error})") from None
    shape = getattr(values, "shape", None)  # an .npz is no array
    if shape != own.shape or values.dtype.kind != "f" or not np.isfinite(values).all():
        found = "several arrays" if shape is None else f"{values.dtype} of shape {shape}"
        raise AdhmrError(f"mean_betas: {path} holds {found}; expected 10 finite floating-point numbers, shape (10,)")
    own.copy_(torch.from_numpy(values))


class BaseTask(Task):
    kind = "base"

    def __init__(self, config: BaseStage):
        self.config = config
        torch.manual_seed(config.seed)
        self.model = BaseModel(config.model) if config.base is None else load_model(config.base, "base")
        try:
            check_crop(config.data.crop, self.model.config.crop_size)
        except ValueError as error:  # only now is it known what `base` is made for
            raise AdhmrError(f"{config.base}: {error}") from None
        if config.encoder_weights is not None:
            load_encoder_weights(self.model.encoder, config.encoder_weights)
        if config.mean_betas is not None:
            load_mean_betas(self.model.encoder, config.mean_betas)
        if config.freeze_encoder:
            leave_out(self.model, "encoder")  # its batch statistics, too, stay as they were trained
        self.schedule = LinearSchedule()

    def prepare(self, device: torch.device) -> None:
        self.schedule.to(device)
        self.model.encoder.to(device)

    def parameter_groups(self) -> list[dict[str, Any]]:
        groups = [{"params": list(self.model.denoiser.parameters()), "lr_scale": 1.0}]
        if not self.config.freeze_encoder:
            scales = self.config.encoder_lr_scale, self.config.encoder_head_lr_scale
            groups += encoder_groups(self.model.encoder, *scales)
        return groups

    def transform(self) -> BaseTransform:
        data = self.config.data
        return BaseTransform(PersonCrop(data.crop, data.augment, data.sets), self.config.noise_draws)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        weights = self.config.loss
        t, noise = batch["t"], batch["noise"]
        x_t = self.schedule.q_sample(batch["x0"][:, None].expand_as(noise), t, noise)  # (N, K, 133)
        split = batch["uvd"][0].numel()  # 87 numbers of joints, then the twists
        features, eps_joint, eps_twist = model(batch["image"], x_t[..., :split], x_t[..., split:], t)
        scaled = self.model.config.denoiser.preconditioning == "edm"
        level_joint, level_twist = self.model.denoiser.loss_weights(t) if scaled else (None, None)
        seen = batch["uvd_weight"]
        parts = {
            "joints": noise_loss(eps_joint, noise[..., :split], seen.flatten(1), level_joint),
            "twists": noise_loss(eps_twist, noise[..., split:], batch["twist_weight"].flatten(1), level_twist),
            "betas": betas_loss(features.betas, batch["betas"], batch["betas_weight"]),
        }
        # Joints in the image always, so that their head has a gradient, 0 if need be: DDP waits for one.
        parts |= encoder_losses(features, batch, True, weights.heatmap > 0, weights.depth > 0)
        return sum(getattr(weights, name) * part for name, part in parts.items()), parts

    def checkpointed_blocks(self) -> list[nn.Module]:
        trained_encoder = [] if self.config.freeze_encoder else self.model.encoder.blocks
        return [*trained_encoder, *self.model.denoiser.blocks]

    def exported(self, module: nn.Module) -> nn.Module:
        return whole(module)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        validation, crop = self.config.validation, self.config.data.crop
        if validation is None:
            return {}
        if validation.padding is not None:
            crop = crop.model_copy(update={"padding": validation.padding})
        body = BodyModel(self.config.body)
        return quick_errors(model, validation.path, crop, self.config.validation_limit, VALIDATION_SEED, body)

    def weights_metadata(self) -> dict[str, Any]:
        return {"crop_padding": self.config.data.crop.padding}

    def model_config(self) -> dict[str, Any]:
        return self.model.config.model_dump(mode="json")
