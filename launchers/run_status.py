"""One line on a run, or on each stage of a pipeline's folder: state, progress, pace, place. `adhmr status` shows it.

The state is decided in job_state.py; how it looks is in status_table.py.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adhmr.errors import AdhmrError
from adhmr.preference.progress import LEDGERS, PLAN_NAME, Progress
from launchers.job_state import State, attempt_has_begun, decide
from launchers.launch_folder import LaunchFolder
from launchers.run_files import SHARED, RunFiles, read_run
from launchers.slurm_queue import Answer, Queue

# A folder with one of them is a run's.
MARKS = ("launch/job.json", "stage.json", "attempts.jsonl", "metrics.jsonl", f"{LEDGERS}/{PLAN_NAME}")
DEPTH = 3  # of folders below the one that is looked through


@dataclass(frozen=True)
class RunStatus:
    run: str  # the folder, as it was given
    name: str
    stage: str  # base, scorer, dpo, generate, ...
    state: State
    reason: str  # of the state, "" where nothing is to be said
    job: str | None  # Slurm's number
    step: int | None  # optimizer steps made, or units of work
    steps: int | None
    loss: float | None  # of the latest log line
    samples_per_s: float | None
    eta_seconds: float | None  # of a running one, by the pace of its present attempt
    nodes: str
    restarts: int


def run_status(run_dir: str | Path, queue: Queue) -> RunStatus:
    return statuses([Path(run_dir)], queue)[0]


def statuses(folders: Sequence[Path], queue: Queue) -> list[RunStatus]:
    """In the order given; Slurm is asked once, and not at all when no run has a job of it."""
    jobs = [read_run(folder).job for folder in folders]
    answers = queue.ask(job.job_id for job in jobs if job is not None and job.kind == "slurm")
    lines = []
    for folder in folders:
        files = read_run(folder)  # after Slurm was asked: a run that has just ended has said so by now
        slurm = files.job is not None and files.job.kind == "slurm"
        lines.append(_status(files, answers.get(files.job.job_id, _NOT_ASKED) if slurm else None))
    return lines


_NOT_ASKED = Answer(None, None, "it was submitted just now: ask again")


def _status(files: RunFiles, answer: Answer | None) -> RunStatus:
    state, reason = decide(files, answer)
    units = files.units
    rows = () if answer is None else answer.queued or ()
    at_work = state == "running" and (units is not None or all(attempt_has_begun(files, row) for row in rows))
    step, steps = _progress(files, units)
    latest = files.metrics[-1] if files.metrics else {}
    if units is not None and units.failed:
        reason = "; ".join(filter(None, (reason, f"{units.failed} of {units.total} units failed")))
    eta = _eta(files, step, steps) if units is None else units.eta_seconds
    return RunStatus(
        run=str(files.folder),
        name=files.folder.resolve().name,
        stage=str(files.config.get("stage", "")),
        state=state,
        reason=reason,
        job=files.job.job_id if files.job is not None and files.job.kind == "slurm" else None,
        step=step,
        steps=steps,
        loss=latest.get("loss"),
        samples_per_s=latest.get("samples_per_s") if at_work else None,
        eta_seconds=eta if at_work else None,
        nodes=_nodes(files, answer) if state in ("running", "ending", "suspended", "unknown") else "",
        restarts=files.restarts,
    )


def _progress(files: RunFiles, units: Progress | None) -> tuple[int | None, int | None]:
    """Steps made and wanted. Heartbeats are ahead of the log, which has a line every train.log_every steps."""
    steps = (files.config.get("train") or {}).get("steps")
    if steps is None or files.config.get("stage") in SHARED:
        return None if units is None else units.done, None if units is None else units.total
    logged = files.metrics[-1]["step"] if files.metrics else 0
    begun = files.begun["step"] if files.begun else 0
    if files.life == "alive" and files.heartbeats:
        return max(begun, min(beat.step for beat, _ in files.heartbeats.values())), steps
    return max(logged, begun), steps


def _eta(files: RunFiles, step: int | None, steps: int | None) -> float | None:
    """From the log lines of this attempt: its first steps, with all that starting costs, are left out."""
    begun = files.begun
    if begun is None or step is None or steps is None:
        return None
    lines = [line for line in files.metrics if line["step"] > begun["step"] and "elapsed" in line]
    if not lines:
        return None
    first, last = lines[0], lines[-1]
    made = last["step"] - first["step"]
    pace = (last["elapsed"] - first["elapsed"]) / made if made > 0 else last["step_time"]  # s a step
    return max(steps - step, 0) * pace


def _nodes(files: RunFiles, answer: Answer | None) -> str:
    if answer is not None and answer.queued:
        return ",".join(dict.fromkeys(row.nodes for row in answer.queued if row.nodes and row.state == "RUNNING"))
    hosts = [beat.host for beat, _ in files.heartbeats.values()] or [files.begun["host"] if files.begun else ""]
    return ",".join(dict.fromkeys(hosts))


def is_run(folder: Path) -> bool:
    return any((folder / mark).exists() for mark in MARKS)


def find_runs(folder: Path) -> list[Path]:
    """`folder` itself when it is a run; otherwise the runs below it, those of a pipeline in its order.

    Raises AdhmrError: there is none.
    """
    if is_run(folder):
        return [folder]
    found = [] if not folder.is_dir() else _below(folder, DEPTH)
    if not found:
        raise AdhmrError(f"{folder}: no run and no folder of runs (one has stage.json, launch/ or attempts.jsonl)")
    return found


def _below(folder: Path, depth: int) -> list[Path]:
    found: list[Path] = []
    for entry in sorted(_folders(folder), key=_began):
        if is_run(entry):
            found.append(entry)
        elif depth > 1:
            found.extend(_below(entry, depth - 1))
    return found


def _folders(folder: Path) -> list[Path]:
    try:
        entries = [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return [entry for entry in entries if not entry.name.startswith(".") and entry.suffix != ".previous"]


def _began(run: Path) -> tuple[float, str]:
    """When a run was submitted or configured, for the order of a pipeline's stages."""
    job = LaunchFolder(run).job()
    if job is not None:
        return job.submitted, run.name
    try:
        return (run / "config.yaml").stat().st_mtime, run.name
    except OSError:
        return float("inf"), run.name
