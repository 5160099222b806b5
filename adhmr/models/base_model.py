"""The base model: image encoder and denoiser together. Losses are in adhmr.objectives, sampling in adhmr.diffusion."""

import torch
from torch import nn

from adhmr.config.model import BaseModelConfig
from adhmr.models.denoiser import Denoiser
from adhmr.models.encoder import ImageEncoder, ImageFeatures


class BaseModel(nn.Module):
    """HypoNet: p(pose | image) as a diffusion over 29 joints and 23 twists."""

    def __init__(self, config: BaseModelConfig):
        super().__init__()
        self.config = config
        self.encoder = ImageEncoder(config.encoder)
        self.denoiser = Denoiser(config.denoiser, config.encoder.memory_grid(config.crop_size, config.crop_size))

    def forward(
        self, image: torch.Tensor, x_joint: torch.Tensor, x_twist: torch.Tensor, t: torch.Tensor
    ) -> tuple[ImageFeatures, torch.Tensor, torch.Tensor]:
        """image (N, 3, S, S), x_joint (N, M, 87), x_twist (N, M, 46), t (N, M) -> features, eps_joint, eps_twist."""
        features = self.encoder(image)
        eps_joint, eps_twist = self.denoiser(x_joint, x_twist, t, features)
        return features, eps_joint, eps_twist
