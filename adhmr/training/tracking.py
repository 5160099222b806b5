"""Where figures go: metrics.jsonl in the run folder always, Weights & Biases when configured.

One line a logged step, also after crashes: lines beyond the step that a run resumes from are cut off. What the figures
are: `meter.py`, `flops.py` and the task.
"""

import contextlib
import json
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from adhmr.atomic_file import write_atomically
from adhmr.config.training import TrackingConfig


class Tracker:
    """Context manager; `active` only on the main process, the others write nothing.

    Weights & Biases cannot end a run: when it fails, one line says so, and the run goes on offline or without it.
    """

    def __init__(
        self, run_dir: Path, config: TrackingConfig, resume_step: int, identity: Mapping[str, Any], active: bool = True
    ):
        self._active = active
        self._wandb = None
        if not active:
            return
        self._path = run_dir / "metrics.jsonl"
        self._file = _cut(self._path, resume_step)
        if config.wandb != "off":
            self._wandb = _start_wandb(run_dir, config, identity)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *error: Any) -> None:
        if self._active:
            self._file.close()
        failed = error[0] not in (None, SystemExit)  # SystemExit: leaving for a requeue
        self._to_wandb("finish", exit_code=int(failed))

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        line = {"step": step, **figures}
        if self._active:
            self._file.write(json.dumps(line) + "\n")
        # Without wandb's own step: it drops lines whose step does not grow, as after a rewind.
        self._to_wandb("log", line)

    def rewind(self, step: int) -> None:
        """The run goes back to `step`: later lines are cut off. Weights & Biases keeps them beside the new ones."""
        if self._active:
            self._file.close()
            self._file = _cut(self._path, step)

    def _to_wandb(self, method: str, *arguments: Any, **options: Any) -> None:
        if self._wandb is None:
            return
        try:
            getattr(self._wandb, method)(*arguments, **options)
        except Exception as error:
            # Its service is a process beside ours, which SLURM's SIGTERM ends before we have saved.
            self._wandb = None
            _report_failure("tracking.wandb: going on without Weights & Biases", error)


def read_metrics(run_dir: str | Path) -> list[dict[str, Any]]:
    """The lines of run_dir/metrics.jsonl, oldest first; a line that is being written is left out."""
    path = Path(run_dir) / "metrics.jsonl"
    return [json.loads(line) for line in _lines_until(path, None)]


def _lines_until(path: Path, step: int | None) -> list[str]:
    if not path.exists():
        return []
    kept = []
    for line in path.read_text().splitlines():
        try:
            if step is not None and json.loads(line)["step"] > step:
                continue
            json.loads(line)
        except ValueError:
            continue  # the process died while it wrote this line
        kept.append(line)
    return kept


def _cut(path: Path, step: int) -> TextIO:
    """Leaves the lines up to `step` and opens the file for more; each line is written at once."""
    write_atomically(path, "".join(line + "\n" for line in _lines_until(path, step)))
    return open(path, "a", buffering=1)  # closed by the caller


def _start_wandb(run_dir: Path, config: TrackingConfig, identity: Mapping[str, Any]) -> Any:
    """A run of the wandb package; offline when the server does not answer; None when neither works."""
    import wandb  # slow to import, and not needed by most runs

    id_file = run_dir / "wandb_id"
    if not id_file.exists():
        write_atomically(id_file, uuid.uuid4().hex[:8])
    for mode in dict.fromkeys((config.wandb, "offline")):
        try:
            run = wandb.init(
                project=config.project,
                name=config.name or run_dir.name,
                id=id_file.read_text(),  # the same after every restart
                resume="allow",  # offline it is noted in the files: `wandb sync` then joins them
                mode=mode,
                dir=run_dir,
                config=dict(identity),
                tags=list(config.tags),
                settings=wandb.Settings(quiet=True, console="off"),  # a bar's redrawing would fill its file
            )
            run.define_metric("step", hidden=True)
            run.define_metric("*", step_metric="step")  # the x axis of every chart
            return run
        except Exception as error:
            _report_failure(f"tracking.wandb: {mode} does not work here", error)
    return None


def _report_failure(what: str, error: Exception) -> None:
    import wandb

    with contextlib.suppress(Exception):  # of the same service
        wandb.teardown()
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    print(f"{what} ({reason}); metrics.jsonl has all figures", file=sys.stderr, flush=True)
