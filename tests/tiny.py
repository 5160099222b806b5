"""Networks small enough for tests, and the real command line in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from adhmr.config.model import BaseModelConfig, EncoderConfig, ScorerConfig
from adhmr.models.base_model import BaseModel
from adhmr.models.encoder import ImageEncoder
from adhmr.models.scorer import HMRScorer
from adhmr.models.weights import load_model, save_encoder, save_weights

REPOSITORY = Path(__file__).resolve().parents[1]
CROP = {"size": 64, "padding": 1.25}
ENCODER = {
    "backbone": "resnet18",
    "backbone_options": {"channels": [8, 16, 16, 32], "stem_width": 8},
    "neck": "fpn",
    "memory_dim": 32,
    "local_dim": 16,
    "depth_head": True,
}
TRANSFORMER = {
    "dim": 32,
    "local_dim": 16,
    "heads": 4,
    "reaches": [7, 3],
    "ffn": 64,
    "dropout": 0.0,
    "input_dropout": 0.0,
    "input_norm": False,
    "initialisation": "xavier",
}
DENOISER = {**TRANSFORMER, "preconditioning": "edm", "anchor": True, "sigma_joint": 6.0}
BASE = {"encoder": ENCODER, "denoiser": DENOISER, "crop_size": CROP["size"]}
REGRESSOR = {"encoder": ENCODER, "crop_size": CROP["size"], **TRANSFORMER}
SCORER = {"encoder": ENCODER, "crop_size": CROP["size"], "relative": True, "hidden_dims": [256, 32], **TRANSFORMER}


def write_tiny_weights(folder: Path) -> None:
    """base.safetensors, scorer.safetensors and encoder.safetensors: random networks that fit together."""
    torch.manual_seed(0)
    base, scorer = BaseModelConfig(**BASE), ScorerConfig(**SCORER)
    save_weights(folder / "base.safetensors", BaseModel(base), "base", base.model_dump(mode="json"))
    save_weights(folder / "scorer.safetensors", HMRScorer(scorer), "scorer", scorer.model_dump(mode="json"))
    save_encoder(folder / "encoder.safetensors", ImageEncoder(EncoderConfig(**ENCODER)))


def write_reading_base(path: Path, base: Path) -> None:
    """The model of `base` with random output layers: those of a new denoiser are zero, so that nothing below trains."""
    torch.manual_seed(0)
    model = load_model(base, "base")
    with torch.no_grad():
        for output in (model.denoiser.joint_output, model.denoiser.twist_output):
            torch.nn.init.xavier_uniform_(output.weight)
    save_weights(path, model, "base", model.config.model_dump(mode="json"))


def command_environment() -> dict[str, str]:
    """One thread, and this repository whatever is installed."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}


def adhmr(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`adhmr` with these arguments, as a user's shell runs it."""
    line = [sys.executable, "-m", "adhmr.cli", *map(str, arguments)]
    return subprocess.run(line, cwd=REPOSITORY, env=command_environment(), capture_output=True, text=True)
