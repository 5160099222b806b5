"""Checkpoint folders that exist whole or not at all, how the last and the best are found, and what is deleted.

    run_dir/checkpoints/step-00001200/{model.safetensors, ema.safetensors, optimizer.pt, state.json, config.json,
                                       manifest.json}

A folder is filled under a temporary name, synced, then renamed. manifest.json holds the size and sha256 of each file.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from adhmr.atomic_file import sync_folder
from adhmr.errors import AdhmrError

log = logging.getLogger(__name__)


@dataclass
class Checkpoint:
    """Everything that a run goes on from."""

    step: int  # optimizer steps made
    model: dict[str, Tensor]
    ema: dict[str, Tensor] | None
    optimizer: dict[str, Any]  # the optimizer's state_dict
    state: dict[str, Any]  # the trainer's own numbers, JSON-serialisable
    config: dict[str, Any]  # what the run is: kind, model, seed, ...; compared before resuming


class CheckpointStore:
    """The checkpoints of one run. Only the main process saves and finds; any process may load."""

    def __init__(self, folder: str | Path, keep_last: int, best_metric: str | None = None, best_mode: str = "min"):
        self.folder = Path(folder)
        self.keep_last = keep_last
        self.best_metric = best_metric
        self.best_sign = 1.0 if best_mode == "min" else -1.0

    def save(self, checkpoint: Checkpoint, evaluation: Mapping[str, float]) -> Path:
        """Commits a checkpoint, then deletes those that retention does not keep. `evaluation`: of these weights, or {}.

        Raises AdhmrError when the disk refuses (full, quota); the checkpoints that were there stay as they are.
        """
        final = self.folder / f"step-{checkpoint.step:08d}"
        temporary = self.folder / f".{final.name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            _write_tensors(temporary / "model.safetensors", checkpoint.model)
            if checkpoint.ema is not None:
                _write_tensors(temporary / "ema.safetensors", checkpoint.ema)
            torch.save(checkpoint.optimizer, temporary / "optimizer.pt")
            _write_json(temporary / "state.json", {"step": checkpoint.step, **checkpoint.state})
            _write_json(temporary / "config.json", checkpoint.config)
            files = {path.name: _size_and_hash(path) for path in sorted(temporary.iterdir())}
            manifest = {"step": checkpoint.step, "evaluation": dict(evaluation), "files": files}
            _write_json(temporary / "manifest.json", manifest)
            for path in temporary.iterdir():
                _sync(path)
            sync_folder(temporary)
            if final.exists():  # the same step again, after a rewind to an older checkpoint
                shutil.rmtree(final)
            os.rename(temporary, final)
            sync_folder(self.folder)
        except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
            shutil.rmtree(temporary, ignore_errors=True)
            raise AdhmrError(
                f"{final}: cannot write this checkpoint ({error}); make room and start again: "
                "the run goes on from its last whole checkpoint"
            ) from error
        self._retain()
        return final

    def load(self, folder: Path) -> Checkpoint:
        """Reads a checkpoint to CPU tensors."""
        state = json.loads((folder / "state.json").read_text())
        ema = folder / "ema.safetensors"
        return Checkpoint(
            step=state.pop("step"),
            model=load_file(folder / "model.safetensors"),
            ema=load_file(ema) if ema.exists() else None,
            optimizer=torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True),
            state=state,
            config=json.loads((folder / "config.json").read_text()),
        )

    def find_last(self) -> Path | None:
        """The newest whole checkpoint. Damaged ones are set aside as `damaged-step-*`, with a warning naming them."""
        for folder in reversed(self._folders()):
            problem = verify(folder)
            if problem is None:
                return folder
            aside = folder.with_name(f"damaged-{folder.name}")
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(folder, aside)
            log.warning("%s is damaged (%s): set aside as %s, trying the one before", folder, problem, aside.name)
        return None

    def find_best(self) -> Path | None:
        """The checkpoint with the best `best_metric` in its manifest; None without such a metric."""
        scored = []
        for folder in self._folders():
            try:
                evaluation = json.loads((folder / "manifest.json").read_text())["evaluation"]
            except (OSError, ValueError, KeyError):
                continue  # damaged: find_last reports it
            if self.best_metric in evaluation:
                scored.append((self.best_sign * evaluation[self.best_metric], folder.name, folder))
        return min(scored)[2] if scored else None

    def _folders(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))

    def _retain(self) -> None:
        for folder in set(self._folders()[: -self.keep_last]) - {self.find_best()}:
            # Renamed first: a deletion that is cut off must not leave a folder that looks like a checkpoint.
            doomed = folder.with_name(f".{folder.name}.deleted")
            os.rename(folder, doomed)
            shutil.rmtree(doomed, ignore_errors=True)
        for leftover in (*self.folder.glob(".step-*.tmp"), *self.folder.glob(".step-*.deleted")):
            shutil.rmtree(leftover, ignore_errors=True)


def verify(folder: Path) -> str | None:
    """What is wrong with a checkpoint folder, in words, or None when every file has its size and hash."""
    try:
        files = json.loads((folder / "manifest.json").read_text())["files"]
    except (OSError, ValueError, KeyError) as error:
        return f"manifest.json cannot be read: {error}"
    for name, expected in files.items():
        try:
            found = _size_and_hash(folder / name)
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
        if found["size"] != expected["size"]:
            return f"{name} has {found['size']} bytes, expected {expected['size']}"
        if found["sha256"] != expected["sha256"]:
            return f"{name} has another sha256 than when it was written"
    return None


def differences(saved: Mapping[str, Any], current: Mapping[str, Any], prefix: str = "") -> list[str]:
    """`key: saved there, current here` for each leaf that differs between two nested dicts."""
    found = []
    for key in sorted({*saved, *current}):
        old, new = saved.get(key), current.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key}: {old} there, {new} here")
    return found


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    # Copies: safetensors refuses tensors that share memory (tied weights).
    save_file({name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}, path)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1))


def _size_and_hash(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
        return {"size": file.tell(), "sha256": digest.hexdigest()}


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
