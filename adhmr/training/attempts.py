"""The starts of a run and how each ended: run_dir/attempts.jsonl, two lines an attempt. Main process only.

From it: that a run which fails again and again is not started for ever, and its goodput. Nothing is trained here.
"""

import os
import socket
import time
from pathlib import Path
from typing import Any, Literal

from adhmr.errors import AdhmrError
from adhmr.event_file import append_event, read_events

Outcome = Literal["finished", "left", "hung", "failed"]
CLEAN = ("finished", "left")  # left: saved and asked to be started again
EXIT_STALE = 86  # of a process whose run belongs to a newer attempt
REASON_LENGTH = 300  # characters of a reason that are kept


class NewerAttempt(AdhmrError):
    """A later attempt of the run has begun: this process, back from a frozen node or a cut link, must write no more."""

    exit_code = EXIT_STALE


class Attempts:
    """Appends to run_dir/attempts.jsonl; each line is on disk when a method returns.

    An attempt that was killed has no second line. A start that is refused is noted too, and the count begins anew:
    whoever starts the run after that has been told.
    """

    def __init__(self, run_dir: str | Path, max_failed_starts: int):
        self._path = Path(run_dir) / "attempts.jsonl"
        self._max_failed_starts = max_failed_starts
        self._number = 0
        self.first_begun = time.time()  # unix seconds, of the first attempt; from `begin` on

    def begin(self, step: int, world_size: int) -> int:
        """Notes an attempt that goes on from `step`; returns its number, from 1.

        Raises AdhmrError: the last `max_failed_starts` attempts began at this very step and none ended well.
        """
        lines = read_attempts(self._path.parent)
        begun = [line for line in lines if line["event"] == "begun"]
        self.first_begun = begun[0]["time"] if begun else self.first_begun
        failures = _failures_in_a_row(lines, step)
        if len(failures) >= self._max_failed_starts:
            append_event(self._path, {"event": "refused", "step": step})
            raise AdhmrError(
                f"{self._path}: the last {len(failures)} attempts began at step {step} and ended before the next "
                f"checkpoint ({_counted(failures)}); see their logs, correct the cause, then start the run again: "
                f"it gets {self._max_failed_starts} more attempts (train.max_failed_starts)"
            )
        self._number = max((line["attempt"] for line in begun), default=0) + 1
        job = {"job": os.environ.get("SLURM_JOB_ID"), "restart": os.environ.get("SLURM_RESTART_COUNT")}
        append_event(
            self._path,
            {
                "event": "begun",
                "attempt": self._number,
                "step": step,
                "world_size": world_size,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                **{name: value for name, value in job.items() if value is not None},
            },
        )
        return self._number

    def end(self, outcome: Outcome, step: int, reason: str = "") -> None:
        """Notes how the attempt that was begun, if one was, ended after `step` steps. A stale one writes nothing."""
        if not self._number or self._newest() > self._number:
            return
        ended = {"event": "ended", "attempt": self._number, "step": step, "outcome": outcome}
        append_event(self._path, {**ended, "reason": " ".join(reason.split())[:REASON_LENGTH]})

    def check_newest(self) -> None:
        """Raises NewerAttempt when a later attempt has begun."""
        newest = self._newest()
        if newest > self._number:
            raise NewerAttempt(
                f"{self._path}: attempt {newest} of this run has begun, this one is number {self._number}; it ends "
                "here and leaves the folder to the other"
            )

    def _newest(self) -> int:
        """Number of the newest attempt that has begun."""
        lines = read_attempts(self._path.parent)
        return max((line["attempt"] for line in lines if line["event"] == "begun"), default=0)

    def goodput(self, productive_seconds: float) -> float:
        """Share of the time since the first attempt began that was spent on steps that count."""
        return productive_seconds / max(time.time() - self.first_begun, productive_seconds, 1e-9)


def read_attempts(run_dir: str | Path) -> list[dict[str, Any]]:
    """The lines of run_dir/attempts.jsonl, oldest first, without torn ones."""
    return read_events(Path(run_dir) / "attempts.jsonl")


def _failures_in_a_row(lines: list[dict[str, Any]], step: int) -> list[str]:
    """What became of the latest attempts that began at `step`, back to one that ended well or a refusal."""
    ends: dict[int, dict[str, Any]] = {}
    for line in lines:
        if line["event"] == "ended":
            ends.setdefault(line["attempt"], line)
    failures: list[str] = []
    for line in reversed(lines):
        if line["event"] == "refused":
            break
        if line["event"] != "begun":
            continue
        end = ends.get(line["attempt"], {"outcome": "died", "reason": ""})
        if line["step"] != step or end["outcome"] in CLEAN:
            break
        failures.append(f"{end['outcome']}: {end['reason']}" if end["reason"] else end["outcome"])
    return failures


def _counted(failures: list[str]) -> str:
    """Equal ones together, the latest first."""
    return "; ".join(f"{failures.count(failure)} x {failure}" for failure in dict.fromkeys(failures))
