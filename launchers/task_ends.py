"""RUN/launch/tasks/JOB-RESTART/rank-3.json: how each rank of an attempt ended. srun tells one exit code for all of
them, behind which the rank that failed first, the cause, is hidden by the kill of the others."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from adhmr.atomic_file import write_atomically
from adhmr.signals import EXIT_REQUEUE
from adhmr.training.attempts import EXIT_STALE
from launchers.launch_folder import EXIT_BAD_NODE, LaunchFolder

EXIT_USER = 2  # an AdhmrError
# Asked to stop, by a signal before there was a handler for it too: nothing is wrong with such a process.
ASKED_TO_STOP = (EXIT_REQUEUE, *(128 + number for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)))


@dataclass(frozen=True)
class TaskEnd:
    rank: int
    node: str  # as SLURM calls it
    code: int  # 128 + n: killed by signal n

    def __str__(self) -> str:
        killed = f" was killed by signal {self.code - 128}" if self.code > 128 else ""
        return f"rank {self.rank} on {self.node}{killed}"


def write_task_end(folder: LaunchFolder, environment: Mapping[str, str], end: TaskEnd) -> None:
    name = f"rank-{end.rank}.json"
    write_atomically(_attempt_folder(folder, environment) / name, json.dumps(asdict(end)), sync=False)


def read_task_ends(folder: LaunchFolder, environment: Mapping[str, str]) -> list[TaskEnd]:
    """Of the attempt that `environment` describes, the one that ended first first, by the file system's clock."""
    found = []
    for path in _attempt_folder(folder, environment).glob("rank-*.json"):
        try:
            found.append((path.stat().st_mtime, TaskEnd(**json.loads(path.read_text()))))
        except (OSError, ValueError, TypeError):
            continue
    return [end for _, end in sorted(found, key=lambda item: (item[0], item[1].rank))]


def forget_former_attempts(folder: LaunchFolder, environment: Mapping[str, str]) -> None:
    mine = _attempt_folder(folder, environment)
    for other in folder.tasks.glob(f"{job_name(environment)}-*"):
        if other != mine:
            shutil.rmtree(other, ignore_errors=True)


def code_of(ends: Sequence[TaskEnd], ranks: int, told: int) -> int:
    """The exit code of a whole attempt. told: what srun, or whoever started the ranks, makes of it."""
    codes = [end.code for end in ends]
    # A user's error, a bad node and a stale attempt say why; the rest is what that did to the others.
    for telling in (EXIT_USER, EXIT_BAD_NODE, EXIT_STALE):
        if telling in codes:
            return telling
    if told == 0:
        return 0
    if len(ends) == ranks and all(code in ASKED_TO_STOP for code in codes):
        return EXIT_REQUEUE
    return next((code for code in codes if code not in (0, *ASKED_TO_STOP)), told)


def job_name(environment: Mapping[str, str]) -> str:
    """As SLURM's commands want it: 123, or 123_4 in an array, whose last task has the array's number as its own."""
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else environment.get("SLURM_JOB_ID", "local")


def worker_of(environment: Mapping[str, str]) -> int | None:
    """The index in an array of workers."""
    task = environment.get("SLURM_ARRAY_TASK_ID")
    return int(task) if task else None


def restart_of(environment: Mapping[str, str]) -> int:
    return int(environment.get("SLURM_RESTART_COUNT") or 0)


def _attempt_folder(folder: LaunchFolder, environment: Mapping[str, str]) -> Path:
    return folder.tasks / f"{job_name(environment)}-{restart_of(environment)}"
