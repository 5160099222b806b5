"""Where figures go: metrics.jsonl in the run folder always, Weights & Biases when configured.

One line a logged step, also after crashes: lines beyond the step that a run resumes from are cut off.
"""

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adhmr.atomic_file import write_atomically
from adhmr.config.training import TrackingConfig


class Tracker:
    """Context manager; `active` only on the main process, the others write nothing."""

    def __init__(
        self, run_dir: Path, config: TrackingConfig, resume_step: int, identity: Mapping[str, Any], active: bool = True
    ):
        self._active = active
        self._wandb = None
        if not active:
            return
        path = run_dir / "metrics.jsonl"
        write_atomically(path, "".join(line + "\n" for line in _lines_until(path, resume_step)))
        self._file = open(path, "a", buffering=1)  # noqa: SIM115 closed by __exit__; a line is written at once
        if config.wandb != "off":
            self._wandb = _start_wandb(run_dir, config, identity)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *error: Any) -> None:
        if self._active:
            self._file.close()
        if self._wandb is not None:
            failed = error[0] not in (None, SystemExit)  # SystemExit: leaving for a requeue
            self._wandb.finish(exit_code=int(failed))

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        if self._active:
            self._file.write(json.dumps({"step": step, **figures}) + "\n")
        if self._wandb is not None:
            self._wandb.log(dict(figures), step=step, commit=True)


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


def _start_wandb(run_dir: Path, config: TrackingConfig, identity: Mapping[str, Any]) -> Any:
    import wandb  # slow to import, and not needed by most runs

    id_file = run_dir / "wandb_id"
    if not id_file.exists():
        write_atomically(id_file, uuid.uuid4().hex[:8])
    return wandb.init(
        project=config.project,
        name=config.name or run_dir.name,
        id=id_file.read_text(),  # the same after every restart
        resume="allow" if config.wandb == "online" else None,  # offline runs are joined by their id when synced
        mode=config.wandb,
        dir=run_dir,
        config=dict(identity),
        tags=list(config.tags),
        settings=wandb.Settings(quiet=True),
    )
