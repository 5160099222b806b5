"""Makes `tests.training.toy` importable however pytest was started; a small alignment stage."""

import sys
from pathlib import Path

import pytest

REPOSITORY = str(Path(__file__).resolve().parents[2])
if REPOSITORY not in sys.path:
    sys.path.insert(0, REPOSITORY)


@pytest.fixture
def dpo_config(tmp_path, preferences, tiny_weights):
    """Makes a DpoStage on the tiny preferences; keywords change it."""
    from adhmr.config.stages import DpoStage

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
