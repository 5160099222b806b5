"""One checkpoint folder: written whole or not at all, checked, read. Which ones are kept is in checkpoint.py.

    step-00001200/{model.safetensors, ema.safetensors, optimizer.safetensors, state.json, config.json, manifest.json}

A folder is filled under a temporary name, synced, then renamed. manifest.json holds the size and sha256 of each file.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from adhmr.atomic_file import sync_folder
from adhmr.errors import AdhmrError
from adhmr.training.tensor_file import StagedFile, write_hashed


@dataclass
class Checkpoint:
    """Everything that a run goes on from, free of the number of processes and of how they share the work."""

    step: int  # optimizer steps made
    model: dict[str, Tensor]
    ema: dict[str, Tensor] | None
    optimizer: dict[str, Tensor]  # "exp_avg/layer.weight", ...: see optimizer_state.py
    state: dict[str, Any]  # the trainer's own numbers, JSON-serialisable
    config: dict[str, Any]  # what the run is: kind, model, seed, ...; compared before resuming


class StagedCheckpoint:
    """A copy in host memory of one checkpoint after the other, from which a folder is written."""

    def __init__(self) -> None:
        self._files = {"model": StagedFile(), "ema": StagedFile(), "optimizer": StagedFile()}

    def fill(self, checkpoint: Checkpoint, evaluation: Mapping[str, float]) -> None:
        """Copies all of it; returns when nothing of `checkpoint` is needed any more."""
        tensors = {"model": checkpoint.model, "ema": checkpoint.ema, "optimizer": checkpoint.optimizer}
        self._filled = {name: self._files[name] for name, content in tensors.items() if content is not None}
        for name, file in self._filled.items():
            file.fill(tensors[name])
        for device in {tensor.device for content in tensors.values() for tensor in (content or {}).values()}:
            if device.type == "cuda":
                torch.cuda.current_stream(device).synchronize()
        self.step = checkpoint.step
        state = {"step": checkpoint.step, **checkpoint.state}
        self._texts = {
            "state.json": json.dumps(state, indent=1),
            "config.json": json.dumps(checkpoint.config, indent=1),
        }
        self._evaluation = dict(evaluation)

    def write(self, parent: Path, before_commit: Callable[[], None] = lambda: None) -> Path:
        """Commits step-* in `parent`, in place of one of the same step, unless `before_commit` raises.

        Raises OSError; then nothing has changed.
        """
        final = parent / f"step-{self.step:08d}"
        temporary = parent / f".{final.name}.tmp"
        replaced = parent / f".{final.name}.replaced"
        put_back(parent)
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            files = {}
            for name, file in self._filled.items():
                files[f"{name}.safetensors"] = file.write(temporary / f"{name}.safetensors")
            for name, text in self._texts.items():
                files[name] = write_hashed(temporary / name, text.encode())
            manifest = {"step": self.step, "written": time.time(), "evaluation": self._evaluation, "files": files}
            write_hashed(temporary / "manifest.json", json.dumps(manifest, indent=1).encode())
            sync_folder(temporary)
            before_commit()
            if final.exists():  # the same step again, after a rewind; cut off here, `put_back` undoes it
                os.rename(final, replaced)
            os.rename(temporary, final)
            sync_folder(parent)
        except BaseException:
            put_back(parent)
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        shutil.rmtree(replaced, ignore_errors=True)
        return final


def put_back(parent: Path) -> None:
    """Restores checkpoints whose replacement was cut off between its two renames."""
    for replaced in parent.glob(".step-*.replaced"):
        final = parent / replaced.name.removeprefix(".").removesuffix(".replaced")
        if final.exists():
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            os.rename(replaced, final)


def read(folder: Path) -> Checkpoint:
    """Tensors on the CPU that are mapped from the files: read as they are used, and never a second copy in memory."""
    try:
        state = json.loads((folder / "state.json").read_text())
        ema = folder / "ema.safetensors"
        return Checkpoint(
            step=state.pop("step"),
            model=load_file(folder / "model.safetensors"),
            ema=load_file(ema) if ema.exists() else None,
            optimizer=load_file(folder / "optimizer.safetensors"),
            state=state,
            config=json.loads((folder / "config.json").read_text()),
        )
    except FileNotFoundError as error:
        name = Path(error.filename or str(error)).name
        raise AdhmrError(f"{folder}: no {name}; not a checkpoint, or written by another version of adhmr") from None


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """None when it is damaged; `verify` says how."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        read_as_expected = isinstance(manifest["evaluation"], dict) and all(
            {"size", "sha256"} <= entry.keys() for entry in manifest["files"].values()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return manifest if read_as_expected else None


def verify(folder: Path, hashes: bool = True) -> str | None:
    """What is wrong with a checkpoint folder, in words, or None when every file has its size (and hash)."""
    manifest = read_manifest(folder)
    if manifest is None:
        return "manifest.json cannot be read" if (folder / "manifest.json").exists() else "manifest.json is missing"
    for name, expected in manifest["files"].items():
        try:
            size = os.stat(folder / name).st_size
            if size != expected["size"]:
                return f"{name} has {size} bytes, expected {expected['size']}"
            if hashes and _sha256(folder / name) != expected["sha256"]:
                return f"{name} has another sha256 than when it was written"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    return None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
