"""A weight file from a checkpoint of a run, at any time: `adhmr checkpoint export`. What is in it: export.py."""

import json
import logging
from pathlib import Path
from typing import Literal

from adhmr.config.common import TrainingStage
from adhmr.errors import AdhmrError
from adhmr.models.weights import weights_hash
from adhmr.training.checkpoint import differences, step_folders, step_of, verify
from adhmr.training.checkpoint_folder import Checkpoint, read
from adhmr.training.export import export_weights
from adhmr.training.run import build_task
from adhmr.training.run_folder import config_of, store_of
from adhmr.training.task import Task

log = logging.getLogger(__name__)


def export_checkpoint(run: Path, target: Path, step: str = "last", which: Literal["ema", "raw"] | None = None) -> str:
    """`adhmr checkpoint export`: writes TARGET from a checkpoint of RUN; returns a line on what it is.

    step: "last", "best" or a number; which: the averaged weights where there are any.
    Raises AdhmrError: no such checkpoint, a damaged one, no average, or a run whose configuration or weights have
    changed since.
    """
    folder = find(run, step)
    checkpoint = read(folder)
    if which == "ema" and checkpoint.ema is None:
        raise AdhmrError(f"{folder}: train.ema_decay is null, so there are no averaged weights; use --weights raw")
    which = which or ("raw" if checkpoint.ema is None else "ema")
    config = config_of(run)
    task = build_task(config)
    _check_same_model(folder, checkpoint, config, task)
    metadata = {"step": checkpoint.step, **_fingerprint(run, checkpoint.step), **task.weights_metadata()}
    try:
        export_weights(task, task.model, folder, which, target, metadata)
    except OSError as error:
        raise AdhmrError(f"{target}: cannot be written ({error.strerror})") from None
    kind = "averaged" if which == "ema" else "raw"
    return f"{target}: {kind} weights of step {checkpoint.step}, kind {task.kind}, {target.stat().st_size / 1e6:.1f} MB"


def find(run: Path, step: str) -> Path:
    """A whole checkpoint of a run; for "last" the newest one that is whole. Nothing is set aside or changed."""
    store = store_of(run)
    folders = step_folders(store.folder)
    if step == "best":
        if store.best_metric is None:
            raise AdhmrError(
                f"{run}: train.best_metric is null, so no checkpoint is the best; use --step last or a number"
            )
        best = store.find_best()
        if best is None:
            raise AdhmrError(f"{run}: no checkpoint has an evaluation with train.best_metric '{store.best_metric}'")
        return _whole(best)
    if step == "last":
        for folder in reversed(folders):
            problem = verify(folder)
            if problem is None:
                return folder
            log.warning("%s is damaged (%s): trying the one before", folder, problem)
        raise AdhmrError(f"{run} has no whole checkpoint")
    folder = store.folder / f"step-{int(step):08d}"
    if folder not in folders:
        there = ", ".join(str(step_of(other)) for other in folders) or "none"
        raise AdhmrError(f"{run} has no checkpoint of step {step}; there are: {there}")
    return _whole(folder)


def _whole(folder: Path) -> Path:
    problem = verify(folder)
    if problem is not None:
        raise AdhmrError(f"{folder} is damaged ({problem}); choose another --step")
    return folder


def _check_same_model(folder: Path, checkpoint: Checkpoint, config: TrainingStage, task: Task) -> None:
    """What RUN/config.yaml builds must be what was trained: the same model, on what the same weight files hold."""
    saved = {"kind": checkpoint.config["kind"], "model": checkpoint.config["model"]}
    built = json.loads(json.dumps({"kind": task.kind, "model": task.model_config()}))  # as it was saved
    changed = differences(saved, built)
    for name, expected in checkpoint.config["run"].get("weights", {}).items():
        path = None if name == "body" else getattr(config, name)  # a body is in no weight file
        if path is not None and weights_hash(path) != expected:
            changed.append(f"{name}: {path} has another content")
    if changed:
        raise AdhmrError(f"{folder} is of another run than {config.output / 'config.yaml'} ({'; '.join(changed[:3])})")


def _fingerprint(run: Path, step: int) -> dict[str, str]:
    """That of the finished run, when these are its final weights: then the file is the one that the run wrote."""
    done = run / "done.json"
    record = json.loads(done.read_text()) if done.exists() else {}
    return {"fingerprint": record["fingerprint"]} if record.get("steps") == step else {}
