"""`adhmr cancel` and `adhmr retry`: a run is asked to save and end, and later goes on where it stopped.

The marker RUN/launch/cancelled tells step_end.py and local.py not to start the run again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from adhmr.atomic_file import write_atomically
from adhmr.errors import AdhmrError
from launchers.job_state import State
from launchers.launch_folder import JobRecord, LaunchFolder
from launchers.run_files import processes_of
from launchers.run_status import RunStatus, statuses
from launchers.slurm_queue import Queue

Say = Callable[[str], None]
OVER: tuple[State, ...] = ("done", "stopped", "failed", "cancelled", "preempted", "not started")
SAVE_SIGNAL = "USR2"  # as ahead of the time limit: the stage saves and leaves
PAUSE = 1.0  # s between two looks


@dataclass(frozen=True)
class _Run:
    folder: Path
    job: JobRecord | None

    @property
    def in_slurm(self) -> bool:
        return self.job is not None and self.job.kind == "slurm"


def cancel(folders: Sequence[Path], grace: float, say: Say) -> None:
    """Ask all, then wait at most `grace` seconds until all have ended; what is there then, is ended at once.

    Raises AdhmrError: Slurm refuses, or a local run is on another machine.
    """
    queue = Queue()
    asked = []
    # What waits first: it must not start when a run before it ends.
    for status in sorted(statuses(folders, queue), key=lambda status: status.state in ("running", "ending")):
        if status.state in OVER:
            say(f"{status.run}: {status.state} already")
            continue
        run = _Run(Path(status.run), LaunchFolder(status.run).job())
        if run.job is not None:
            write_atomically(LaunchFolder(run.folder).cancelled_file, "")
        say(f"{status.run}: {_ask(run, status, queue)}")
        asked.append(run)
    deadline = time.monotonic() + grace
    while asked and time.monotonic() < deadline:
        time.sleep(PAUSE)
        now = {Path(status.run): status for status in statuses([run.folder for run in asked], queue)}
        for run in list(asked):
            status = now[run.folder]
            if status.state in OVER:
                at = f" at step {status.step}" if status.step else ""
                say(f"{run.folder}: {status.state}{at}")
                asked.remove(run)
            elif status.state in ("requeued", "pending", "held", "blocked"):
                _ask(run, status, queue)  # it was put back into the queue before it saw the marker
    for run in asked:
        _end(run, queue)
        say(f"{run.folder}: did not end within {grace:g} s, ended at once; it goes on from its last checkpoint")


def _ask(run: _Run, status: RunStatus, queue: Queue) -> str:
    if not run.in_slurm:
        pids = _local(run, status)
        for pid in pids:
            _kill(pid, signal.SIGTERM)
        return f"asked to save and end (process {', '.join(map(str, pids))})"
    # Tasks of an array may wait while others run.
    answer = queue.ask([run.job.job_id])[run.job.job_id]
    running = [row for row in answer.queued or () if row.state == "RUNNING"]
    for row in answer.queued or ():
        if row.state in ("PENDING", "SUSPENDED", "REQUEUE_HOLD", "SPECIAL_EXIT", "CONFIGURING"):
            queue.cancel(row.id)
    for row in running:
        queue.signal(row.id, SAVE_SIGNAL)
    if running:
        return f"job {run.job.job_id} was asked to save and end"
    return f"job {run.job.job_id} was taken out of the queue"


def _end(run: _Run, queue: Queue) -> None:
    if run.in_slurm:
        queue.cancel(run.job.job_id)
        return
    for pid in processes_of(run.folder):
        _kill(pid, signal.SIGKILL)


def _local(run: _Run, status: RunStatus) -> list[int]:
    pids = processes_of(run.folder)
    if not pids:
        where = f"on {status.nodes}" if status.nodes else "elsewhere"
        raise AdhmrError(f"{run.folder}: no process of it is on this machine; it runs {where}: cancel it there")
    return pids


def _kill(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended by itself
        os.kill(pid, number)
