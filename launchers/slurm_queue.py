"""What Slurm says about jobs (squeue and sacct, one call each for all of them) and the few things done to a job.

Answers are kept apart and as they came; which state of a run follows from them is in job_state.py.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from adhmr.errors import AdhmrError

TIMEOUT = 60  # s for one command; a busy slurmctld answers late
SQUEUE = "%F|%K|%T|%N|%V|%S|%e|%j|%o|%r"
SACCT = "JobID,State,NodeList,Submit,Start,End,JobName,ExitCode,WorkDir,SubmitLine"


@dataclass(frozen=True)
class JobRow:
    """One job, or one task of an array, as squeue or sacct tells it."""

    job: str  # without the index of an array
    task: int | None  # index in an array
    state: str  # Slurm's own word: RUNNING, NODE_FAIL, ...
    nodes: str  # as n[1-2]; "" before it has any
    submitted: float  # unix seconds; of a requeued job: of its requeue
    started: float | None  # unix seconds; of a pending job: the expected start
    ended: float | None  # unix seconds; of a job that has not ended yet: when its time is over
    name: str
    scripts: tuple[str, ...]  # absolute paths, one of which is the batch script
    reason: str = ""  # why it is pending, or how it ended

    @property
    def id(self) -> str:
        return self.job if self.task is None else f"{self.job}_{self.task}"


@dataclass(frozen=True)
class Answer:
    """The rows of a job, a task of an array each. None: that command did not answer, and `problem` says why."""

    queued: tuple[JobRow, ...] | None  # of squeue: pending, running, and what ended a few minutes ago
    accounted: tuple[JobRow, ...] | None  # of sacct: the latest start of all that ever was; some seconds late
    problem: str = ""


class Queue:
    """Slurm's commands as they are on PATH, for the cluster that SLURM_CONF or the site's default names."""

    def ask(self, jobs: Iterable[str]) -> dict[str, Answer]:
        """squeue first, then sacct: a job that ends between the two is in sacct's answer."""
        names = sorted({str(job).split("_")[0] for job in jobs})
        if not names:
            return {}
        queued, squeue_problem = _rows(_squeue, names)
        accounted, sacct_problem = _rows(_sacct, names)
        problem = "; ".join(filter(None, (squeue_problem, sacct_problem)))
        return {
            name: Answer(
                None if queued is None else tuple(row for row in queued if row.job == name),
                None if accounted is None else tuple(row for row in accounted if row.job == name),
                problem,
            )
            for name in names
        }

    def requeue(self, job: str) -> None:
        """Ends the job, or the array's task (123_4), where it still runs, and puts it back into the queue."""
        _command("scontrol", "requeue", job)

    def exclude(self, job: str, nodes: Sequence[str]) -> None:
        """Requeues the job such that it never starts on `nodes`: all nodes that it is to avoid, also former ones.

        Slurm takes the list for jobs that wait only, so the job is held in between. The caller may be the job's own
        batch script: it has until KillWait after the first of the three commands.
        """
        _command("scontrol", "requeuehold", job)
        _command("scontrol", "update", f"JobId={job}", f"ExcNodeList={','.join(nodes)}")
        _command("scontrol", "release", job)

    def signal(self, job: str, signal: str) -> None:
        """Sends a signal, as USR2, to all steps of a running job; its batch shell does not get it."""
        _command("scancel", f"--signal={signal}", job)

    def cancel(self, job: str) -> None:
        """Ends the job, or takes it out of the queue: SIGTERM to all its processes, after KillWait SIGKILL."""
        _command("scancel", job)


class _NoAnswer(Exception):
    """A command of Slurm failed; the text is for the user."""


def _command(*words: str) -> str:
    try:
        return _output(words)
    except _NoAnswer as error:
        raise AdhmrError(f"{error}; expected a job {words[-1]} that this cluster knows and you may change") from None


def _output(words: Sequence[str]) -> str:
    environment = {**os.environ, "SLURM_TIME_FORMAT": "%s", "LC_ALL": "C"}
    try:
        ran = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    except FileNotFoundError:
        raise _NoAnswer(f"{words[0]} is not on this machine") from None
    except subprocess.TimeoutExpired:
        raise _NoAnswer(f"{words[0]} did not answer within {TIMEOUT} s") from None
    if ran.returncode != 0:
        said = " ".join((ran.stderr or ran.stdout).split()) or f"exit code {ran.returncode}"
        raise _NoAnswer(f"{words[0]}: {said.removeprefix(f'{words[0]}: ')[:300]}")
    return ran.stdout


def _rows(reader: Callable[[Sequence[str]], list[JobRow]], names: Sequence[str]) -> tuple[list[JobRow] | None, str]:
    try:
        return sorted(reader(names), key=lambda row: -1 if row.task is None else row.task), ""
    except _NoAnswer as error:
        return None, str(error)


def _squeue(names: Sequence[str]) -> list[JobRow]:
    # All states: for MinJobAge (minutes) after its end a job is here, when sacct may not have its end yet.
    words = ("squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(names)}", f"--format={SQUEUE}")
    try:
        lines = _output(words).splitlines()
    except _NoAnswer as error:
        if "Invalid job id specified" in str(error):  # how squeue says that it does not know the only job it is asked
            return []
        raise
    rows = []
    for line in lines:
        job, task, state, nodes, submitted, started, ended, name, script, reason = line.split("|", 9)
        rows.append(
            JobRow(
                job=job,
                task=int(task) if task.isdecimal() else None,
                state=state,
                nodes=nodes,
                submitted=_seconds(submitted) or 0.0,
                started=_seconds(started),
                ended=_seconds(ended),
                name=name,
                scripts=_paths(script, "/"),
                reason="" if reason == "None" else reason,
            )
        )
    return rows


def _sacct(names: Sequence[str]) -> list[JobRow]:
    # Without --duplicates: of a requeued job only its latest start.
    words = ("sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={','.join(names)}")
    rows = []
    for line in _output((*words, f"--format={SACCT}")).splitlines():
        job, state, nodes, submitted, started, ended, name, code, folder, submit_line = line.split("|", 9)
        number, _, task = job.partition("_")
        rows.extend(
            JobRow(
                job=number,
                task=index,
                state=state.split()[0] if state else "",  # CANCELLED by 1000
                nodes="" if nodes == "None assigned" else nodes,
                submitted=_seconds(submitted) or 0.0,
                started=_seconds(started),
                ended=_seconds(ended),
                name=name,
                scripts=_paths(submit_line, folder),
                reason=f"exit code {code}",  # code:signal
            )
            for index in _tasks(task)
        )
    return rows


def _tasks(text: str) -> list[int | None]:
    """The indices in what follows a job's number in sacct: "", "4", and of tasks that wait "[0-2,7%3]"."""
    if not text:
        return [None]
    indices: list[int | None] = []
    for part in text.strip("[]").split("%")[0].split(","):
        first, _, last = part.partition("-")
        if first.isdecimal():
            indices.extend(range(int(first), int(last or first) + 1))
    return indices


def _seconds(text: str) -> float | None:
    return float(text) if text.isdecimal() else None  # N/A, Unknown


def _paths(words: str, folder: str) -> tuple[str, ...]:
    """Of a command line or a script's path, the words that may be files; in real folders, for comparison."""
    given = (word for word in words.split() if "/" in word and not word.startswith("-"))
    return tuple(os.path.realpath(Path(folder) / word) for word in given)
