"""What SLURM says about the job that asks, from inside of it, and about partitions, before there is one.

States of many jobs at once, and what is done to a job, are in slurm_queue.py.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

TIMEOUT = 60  # s for one command; a busy slurmctld answers late

Ending = Literal["ours", "requeued", "timeout", "cancelled"]


@dataclass(frozen=True)
class Partition:
    name: str
    minutes: float | None  # time limit; None: none
    nodes: int


def job_fields(job: str) -> dict[str, str]:
    """`scontrol show job` as key -> value; {} when SLURM does not answer."""
    text = _output(["scontrol", "show", "job", "-o", job])
    return dict(re.findall(r"(\w+)=(\S*)", text or ""))


def end_of_job(job: str) -> float | None:
    """Unix seconds; None: no limit, or SLURM does not answer."""
    return _unix(job_fields(job).get("EndTime", ""))


def ending(job: str, restart: int, limit: float | None) -> Ending:
    """Who ends this job, which may still be running its last lines. limit: unix seconds of its time limit.

    ours: nobody else does. requeued: SLURM has put it back already, after a preemption, a failed node or by hand.
    A job in its last seconds is COMPLETING, whoever ended it: what sets a time-out apart is the time.
    """
    fields = job_fields(job)
    if int(fields.get("Restarts", 0)) > restart:
        return "requeued"
    if fields.get("JobState") in ("RUNNING", "SUSPENDED", None):
        return "ours"
    end = _unix(fields.get("EndTime", ""))
    return "timeout" if limit is not None and end is not None and end >= limit - 1 else "cancelled"


def partitions() -> list[Partition] | None:
    """None: SLURM does not answer here."""
    text = _output(["sinfo", "--noheader", "--format=%R|%l|%D"])
    if text is None:
        return None
    found: dict[str, Partition] = {}
    for line in text.splitlines():
        name, limit, nodes = line.split("|")
        before = found[name].nodes if name in found else 0  # a line a state of nodes
        found[name] = Partition(name, _minutes(limit), before + int(nodes))
    return list(found.values())


def nodes_of(partition: str | None) -> list[str]:
    """Names of all nodes, usable or not; [] when SLURM does not answer."""
    only = [] if partition is None else [f"--partition={partition}"]
    text = _output(["sinfo", "--noheader", "--Node", "--format=%N", *only])
    return sorted(set((text or "").split()))


def _output(words: list[str]) -> str | None:
    try:
        ran = subprocess.run(
            words, env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True, timeout=TIMEOUT, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return ran.stdout


def _unix(text: str) -> float | None:
    """Of the local time that SLURM writes."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return float(text) if text.isdecimal() else None  # SLURM_TIME_FORMAT=%s; Unknown


def _minutes(limit: str) -> float | None:
    """Of 1-00:00:00, 30:00, infinite."""
    if not re.fullmatch(r"(\d+-)?[\d:]+", limit):
        return None
    days, _, clock = limit.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    seconds = sum(part * 60**power for power, part in enumerate(reversed(parts)))
    return int(days or 0) * 1440 + seconds / 60
