"""Tiny configurations, features and one tiny base model, for the tests of the networks."""

import pytest
import torch

from adhmr.config.model import BaseModelConfig, ScorerConfig
from adhmr.models.base_model import BaseModel
from adhmr.models.encoder import ImageFeatures

TRANSFORMER = {
    "dim": 64,
    "local_dim": 32,
    "heads": 4,
    "reaches": (7, 4, 1),
    "ffn": 128,
    "dropout": 0.0,
    "input_dropout": 0.0,
    "input_norm": False,
    "initialisation": "xavier",
}
ENCODER = {
    "backbone": "resnet18",
    "backbone_options": {"channels": [16, 16, 32, 32]},
    "neck": "fpn",
    "memory_dim": 64,
    "local_dim": 32,
    "depth_head": True,
}


def small_features(depth: bool = True) -> ImageFeatures:
    generator = torch.Generator().manual_seed(1)
    joints2d = torch.rand(2, 29, 2, generator=generator) - 0.5
    return ImageFeatures(
        memory=torch.randn(2, 16, 64, generator=generator),
        local_map=None,
        local=torch.randn(2, 52, 32, generator=generator),
        joints2d=joints2d,
        depth=joints2d[..., 0] * 0.5 if depth else None,
        heatmap_logits=None,
        betas=torch.zeros(2, 10),
    )


@pytest.fixture
def tiny_config() -> BaseModelConfig:
    denoiser = {**TRANSFORMER, "preconditioning": "edm", "anchor": True, "sigma_joint": 6.0}
    return BaseModelConfig(encoder=ENCODER, denoiser=denoiser, crop_size=64)


@pytest.fixture
def scorer_config() -> ScorerConfig:
    return ScorerConfig(encoder=ENCODER, crop_size=64, relative=True, hidden_dims=(256, 32), **TRANSFORMER)


@pytest.fixture
def tiny_model(tiny_config) -> BaseModel:
    torch.manual_seed(0)
    return BaseModel(tiny_config).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
