"""Weight files from checkpoints: one safetensors file that every stage accepts. Its format is in models/weights.py."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import nn

from adhmr.models.weights import load_state, save_weights
from adhmr.training.checkpoint_folder import read
from adhmr.training.task import Task


def export_weights(
    task: Task, module: nn.Module, folder: Path, which: Literal["ema", "raw"], target: Path, metadata: Mapping[str, Any]
) -> None:
    """Fills `module`, built like task.model, from the checkpoint `folder` and writes what it is a part of.

    which: the averaged weights, those of training where there is no average; or those of training.
    """
    checkpoint = read(folder)
    averaged = which == "ema" and checkpoint.ema is not None
    load_state(module, checkpoint.ema if averaged else checkpoint.model, str(folder))
    save_weights(target, task.exported(module), task.kind, task.model_config(), dict(metadata))
