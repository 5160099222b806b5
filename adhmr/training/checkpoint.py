"""The checkpoints of a run: saved behind the training's back, found, and deleted when they are not kept.

    run_dir/checkpoints/step-00001200/

What is in a folder, and how it appears whole or not at all, is in checkpoint_folder.py.
"""

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from adhmr.errors import AdhmrError
from adhmr.training.checkpoint_folder import Checkpoint, StagedCheckpoint, put_back, read, read_manifest, verify

log = logging.getLogger(__name__)


class CheckpointStore:
    """The checkpoints of one run. Only the main process saves, finds and deletes; any process may load.

    keep_last: newest ones kept; keep_every: steps that are multiples of it are kept for ever; the best by best_metric
    of the evaluations is kept too. Nothing is deleted before the next one is committed. before_commit: called when all
    is written and nothing is renamed yet; by an exception it forbids the rest.
    """

    def __init__(
        self,
        folder: str | Path,
        keep_last: int,
        keep_every: int | None = None,
        best_metric: str | None = None,
        best_mode: str = "min",
        before_commit: Callable[[], None] = lambda: None,
    ):
        self.folder = Path(folder)
        self.keep_last, self.keep_every = keep_last, keep_every
        self.best_metric = best_metric
        self.best_sign = 1.0 if best_mode == "min" else -1.0
        self.failure: Exception | None = None  # of a write that went wrong and that nobody has waited for yet
        self.seconds = 0.0  # of the longest save so far, writing included
        self._before_commit = before_commit
        self._staged = StagedCheckpoint()
        self._writer: threading.Thread | None = None

    def save(self, checkpoint: Checkpoint, evaluation: Mapping[str, float]) -> None:
        """Copies the checkpoint and starts to write it; `evaluation`: of these weights, or {}.

        Waits for the write before it, and raises as `wait` when that one failed. Afterwards the caller may change the
        tensors; the checkpoint is safe only when it is no longer `pending`.
        """
        self.wait()
        self._staged.fill(checkpoint, evaluation)
        # No daemon: a process that ends while it writes, by an error even, finishes the checkpoint first.
        self._writer = threading.Thread(target=self._commit, name="checkpoint writer")
        self._writer.start()

    @property
    def pending(self) -> bool:
        return self._writer is not None and self._writer.is_alive()

    def wait(self) -> None:
        """Until the checkpoint that was saved last is committed.

        Raises AdhmrError, once, when the disk refused it (full, quota); the earlier checkpoints stay as they are.
        """
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure

    def load(self, folder: Path) -> Checkpoint:
        """Tensors on the CPU that are mapped from the files, not read at once."""
        return read(folder)

    def find_last(self) -> Path | None:
        """The newest whole checkpoint. Damaged ones are set aside as `damaged-step-*`, with a warning naming them."""
        self.wait()
        put_back(self.folder)
        for folder in reversed(step_folders(self.folder)):
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
        self.wait()
        return self._best(step_folders(self.folder))

    def newest_until(self, step: int) -> Path | None:
        """The newest whole checkpoint of at most `step` steps."""
        self.wait()
        folders = (folder for folder in reversed(step_folders(self.folder)) if step_of(folder) <= step)
        return next((folder for folder in folders if verify(folder) is None), None)

    def discard_after(self, step: int) -> None:
        """Deletes the checkpoints of later steps: the run goes back to `step` and will come to them anew."""
        self.wait()
        self._delete({folder for folder in step_folders(self.folder) if step_of(folder) > step})

    def kept(self) -> dict[Path, list[str]]:
        """The checkpoints, oldest first, and why each is kept: "last", "every", "best"; nothing: no longer."""
        folders = step_folders(self.folder)
        last, best = set(folders[-self.keep_last :]), self._best(folders)
        reasons = {}
        for folder in folders:
            every = self.keep_every is not None and step_of(folder) % self.keep_every == 0
            found = {"last": folder in last, "every": every, "best": folder == best}
            reasons[folder] = [name for name, holds in found.items() if holds]
        return reasons

    def _best(self, folders: list[Path]) -> Path | None:
        scored = []
        for folder in folders:
            manifest = read_manifest(folder)  # damaged: find_last reports it
            if manifest is not None and self.best_metric in manifest["evaluation"]:
                scored.append((self.best_sign * manifest["evaluation"][self.best_metric], folder.name, folder))
        return min(scored)[2] if scored else None

    def _commit(self) -> None:
        """What the writing thread does; it leaves an exception in `failure`."""
        began = time.monotonic()
        try:
            self._staged.write(self.folder, self._before_commit)
            self.seconds = max(self.seconds, time.monotonic() - began)
            self._delete({folder for folder, reasons in self.kept().items() if not reasons})
            for leftover in (*self.folder.glob(".step-*.tmp"), *self.folder.glob(".step-*.deleted")):
                shutil.rmtree(leftover, ignore_errors=True)
        except OSError as error:
            self.failure = AdhmrError(
                f"{self.folder / f'step-{self._staged.step:08d}'}: cannot write this checkpoint ({error}); make room "
                "and start again: the run goes on from its last whole checkpoint"
            )
            self.failure.__cause__ = error
        except Exception as error:
            self.failure = error

    def _delete(self, folders: set[Path]) -> None:
        for folder in folders:
            # Renamed first: a deletion that is cut off must not leave a folder that looks like a checkpoint.
            doomed = folder.with_name(f".{folder.name}.deleted")
            shutil.rmtree(doomed, ignore_errors=True)
            os.rename(folder, doomed)
            shutil.rmtree(doomed, ignore_errors=True)


def step_folders(folder: Path) -> list[Path]:
    """The committed checkpoints in a run's folder of checkpoints, oldest first."""
    named = (path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdecimal())
    return sorted(named, key=step_of)


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


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
