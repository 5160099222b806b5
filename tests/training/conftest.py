"""Makes `tests.training.toy` importable however pytest was started; a small stage of each task."""

import sys
from pathlib import Path

import pytest

REPOSITORY = str(Path(__file__).resolve().parents[2])
if REPOSITORY not in sys.path:
    sys.path.insert(0, REPOSITORY)


@pytest.fixture
def dpo_config(tmp_path, preferences, tiny_weights):
    """Makes a DpoStage on the tiny preferences; keywords change it."""
    from adhmr.config.alignment import DpoStage

    def make(**changes) -> DpoStage:
        values = {
            "stage": "dpo",
            "output": tmp_path / "align",
            "base": tiny_weights / "base.safetensors",
            "preferences": [{"path": preferences / "studio-error"}],
            "pairs_per_image": 2,
            "workers": 0,
            "train": {"steps": 2, "global_batch": 4, "log_every": 1, "save_every": 1, "ema_decay": 0.5},
            "optim": {"lr": 1e-3, "warmup_steps": 0},
        }
        return DpoStage(**{**values, **changes})

    return make


@pytest.fixture
def base_config(tmp_path, studio_set, tiny_weights):
    """Makes a BaseStage on ten people; keywords change it."""
    from adhmr.config.stages import BaseStage
    from tests.tiny import BASE, CROP

    def make(**changes) -> BaseStage:
        values = {
            "stage": "base",
            "output": tmp_path / "base",
            "data": {"sets": [{"path": str(studio_set)}], "crop": CROP, "augment": None, "workers": 0},
            "model": BASE,
            "noise_draws": 2,
            "encoder_weights": tiny_weights / "encoder.safetensors",
            "train": {"steps": 2, "global_batch": 4, "log_every": 1, "save_every": 1, "ema_decay": 0.5},
            "optim": {"lr": 1e-3, "warmup_steps": 0},
        }
        return BaseStage(**{**values, **changes})

    return make


@pytest.fixture
def scorer_config(tmp_path, studio_set, tiny_weights):
    """Makes a ScorerStage on ten people; keywords change it."""
    from adhmr.config.stages import ScorerStage
    from tests.tiny import CROP, SCORER

    def make(**changes) -> ScorerStage:
        values = {
            "stage": "scorer",
            "output": tmp_path / "scorer",
            "data": {"sets": [{"path": str(studio_set)}], "crop": CROP, "augment": None, "workers": 0},
            "model": SCORER,
            "hypotheses": 6,
            "noise": {"kind": "mixed", "pose": 0.5, "root": 0.2, "betas": 0.3},
            "metric_vertices": 100,
            "encoder_weights": tiny_weights / "encoder.safetensors",
            "train": {"steps": 2, "global_batch": 4, "log_every": 1, "save_every": 1, "ema_decay": 0.5},
            "optim": {"lr": 1e-3, "warmup_steps": 0},
        }
        return ScorerStage(**{**values, **changes})

    return make
