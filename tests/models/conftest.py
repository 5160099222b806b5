"""Official-like state dicts, tiny configurations and one tiny base model, for the tests of the networks."""

import json
import zlib
from pathlib import Path

import numpy as np
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


def official_state(entries: list, seed: int) -> dict[str, torch.Tensor]:
    """Values of a state dict's entries by the rule of reference/README.md."""
    state = {}
    for name, shape in entries:
        generator = np.random.Generator(np.random.PCG64(zlib.crc32(f"{seed}:{name}".encode())))
        x = generator.standard_normal(shape).astype(np.float32)
        last = name.rsplit(".", 1)[-1]
        if last == "num_batches_tracked":
            state[name] = torch.tensor(0)
            continue
        if last == "running_var":
            x = 1 + 0.1 * np.abs(x)
        elif last == "running_mean":
            x = 0.1 * x
        elif len(shape) >= 2:
            x = x / np.sqrt(max(np.prod(shape[1:]), 1))
        elif last == "weight":
            x = 0.4 + 0.05 * x
        else:
            x = 0.1 * x
        state[name] = torch.from_numpy(np.asarray(x, np.float32))
    return state


def reference_state(folder: Path, file: str, part: str) -> dict[str, torch.Tensor]:
    listing = json.loads((folder / file).read_text())
    return official_state(listing[part], listing["seed"])


def reference_arrays(folder: Path, file: str) -> dict[str, torch.Tensor]:
    with np.load(folder / file) as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive.files}


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, relative to the largest absolute value of the expected array."""
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max()).item()


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
