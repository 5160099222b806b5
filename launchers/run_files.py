"""What the files of a run folder say about it: progress, attempts, whether a process of it lives. Nothing is written.

Slurm's word is in slurm_queue.py; the state that follows from both in job_state.py.
"""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from adhmr.errors import AdhmrError
from adhmr.preference.progress import Progress, generation_progress
from adhmr.training.attempts import read_attempts
from adhmr.training.heartbeats import Heartbeat, read_heartbeats
from adhmr.training.tracking import read_metrics
from launchers.launch_folder import JobRecord, LaunchFolder
from launchers.stage_record import StageRecord, read_record

# A live process writes its heartbeat every 5 s, and a network file system may show it a minute late.
SILENT_SECONDS = 90.0
SHARED = ("generate", "reference")  # stages whose work is in units of a ledger
HEARTBEATS_PER_SECOND = 20  # of all ranks together: with more than 100 each writes less often

Life = Literal["alive", "dead", "silent", "none"]


@dataclass(frozen=True)
class RunFiles:
    """One reading of a run folder."""

    folder: Path
    config: dict[str, Any]  # RUN/config.yaml, unchecked; {} when there is none
    record: StageRecord | None  # RUN/stage.json
    job: JobRecord | None  # RUN/launch/job.json
    cancelled: bool  # `adhmr cancel` was called
    events: list[dict[str, Any]]  # of this job, oldest first
    attempts: list[dict[str, Any]]
    metrics: list[dict[str, Any]]
    trained: bool  # done.json is there, and of as many steps as the configuration wants
    heartbeats: dict[int, tuple[Heartbeat, float]]  # of the latest attempt
    life: Life  # of the latest attempt: proof of life, proof of death, neither; none: nothing has begun
    silence: float  # s since the latest heartbeat of any rank; infinite without one
    units: Progress | None = None  # of a stage of shared work that has begun

    @property
    def done(self) -> bool:
        """Whoever launched the stage has noted its end: a pipeline in stage.json, a job alone in its events."""
        if self.job is None or self.job.fingerprint is not None:
            wanted = self.job and self.job.fingerprint
            record = self.record
            return record is not None and record.state == "done" and wanted in (None, record.fingerprint)
        workers = [None] if self.job.array is None or self.job.kind == "local" else range(self.job.array)
        return all(self.last_end(worker).get("decision") == "done" for worker in workers)

    @property
    def begun(self) -> dict[str, Any] | None:
        """The line of the latest attempt."""
        return next((line for line in reversed(self.attempts) if line["event"] == "begun"), None)

    @property
    def ended(self) -> dict[str, Any] | None:
        """How the latest attempt ended; None while it runs, and when it was killed."""
        begun = self.begun
        number = begun and begun["attempt"]
        return next((x for x in self.attempts if x["event"] == "ended" and x["attempt"] == number), None)

    @property
    def restarts(self) -> int:
        starts = [event for event in self.events if event["event"] == "started"]
        if starts:
            return len(starts) - len({event.get("job") for event in starts})
        return max(sum(line["event"] == "begun" for line in self.attempts) - 1, 0)

    def last_end(self, worker: int | None = None) -> dict[str, Any]:
        """What the launcher noted when this job, or this worker of its array, ended last; {} where it has not."""
        lines = [event for event in self.events if event.get("worker") == worker]
        return lines[-1] if lines and lines[-1]["event"] == "ended" else {}


def read_run(folder: Path) -> RunFiles:
    launch = LaunchFolder(folder)
    job = launch.job()
    events = launch.all_events()
    if job is not None:  # without those of former submissions
        events = [event for event in events if event.get("submission", "") == launch.owner()]
    attempts = read_attempts(folder)
    config = _config(folder / "config.yaml")
    finished = _json(folder / "done.json")
    heartbeats = _heartbeats(folder, attempts)
    newest = max((written for _, written in heartbeats.values()), default=None)
    silence = float("inf") if newest is None else max(time.time() - newest, 0.0)
    return RunFiles(
        folder=folder,
        config=config,
        record=read_record(folder),
        job=job,
        cancelled=launch.cancelled_file.exists(),
        events=events,
        attempts=attempts,
        metrics=read_metrics(folder),
        trained=finished is not None and finished.get("steps", 0) >= (config.get("train") or {}).get("steps", 0),
        heartbeats=heartbeats,
        life=_life(folder, attempts, heartbeats, silence),
        silence=silence,
        units=_units(folder, config),
    )


def _units(folder: Path, config: dict[str, Any]) -> Progress | None:
    if config.get("stage") not in SHARED:
        return None
    try:
        return generation_progress(folder)
    except AdhmrError:
        return None


def _life(
    folder: Path, attempts: list[dict[str, Any]], heartbeats: dict[int, tuple[Heartbeat, float]], silence: float
) -> Life:
    if _processes_with(folder / "config.yaml"):
        return "alive"
    begun = next((line for line in reversed(attempts) if line["event"] == "begun"), None)
    if begun is None:
        return "none"
    if any(line["event"] == "ended" and line["attempt"] == begun["attempt"] for line in attempts):
        return "dead"
    if begun["host"] == socket.gethostname():
        return "alive" if _lives_since(begun["pid"], begun["time"]) else "dead"
    live = any(heartbeat.phase != "ended" for heartbeat, _ in heartbeats.values())
    return "alive" if live and silence < allowed_silence(begun["world_size"]) else "silent"


def allowed_silence(world_size: int) -> float:
    """Seconds without a heartbeat of `world_size` processes that prove nothing yet."""
    return SILENT_SECONDS + 3 * world_size / HEARTBEATS_PER_SECOND


def _heartbeats(folder: Path, attempts: list[dict[str, Any]]) -> dict[int, tuple[Heartbeat, float]]:
    """Of the latest attempt: files of former ones, with more processes, stay in the folder."""
    begun = next((line for line in reversed(attempts) if line["event"] == "begun"), None)
    if begun is None:
        return {}
    read = read_heartbeats(folder, begun["world_size"])
    # Heartbeats begin before the attempt is noted; those of a former attempt have an older phase and an older time.
    return {rank: item for rank, item in read.items() if item[0].time >= begun["time"]}


def _lives_since(pid: int, begun: float) -> bool:
    """Whether the process of this number was there at that time: numbers are given again."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        booted = next(int(x.split()[1]) for x in Path("/proc/stat").read_text().splitlines() if x.startswith("btime"))
    except (OSError, StopIteration):
        return False
    started = booted + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return fields[0] not in "ZX" and started < begun + 5


def processes_of(folder: Path) -> list[int]:
    """On this machine: what runs as `adhmr run FOLDER/config.yaml`, and the latest attempt's main process."""
    begun = next((line for line in reversed(read_attempts(folder)) if line["event"] == "begun"), None)
    here = begun is not None and begun["host"] == socket.gethostname()
    main = [begun["pid"]] if here and _lives_since(begun["pid"], begun["time"]) else []
    return sorted({*main, *_processes_with(folder / "config.yaml")})


def _processes_with(config: Path) -> list[int]:
    found = []
    wanted = os.path.realpath(config)
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if "run" not in words or not any(word.endswith("config.yaml") for word in words):
                continue
            folder = os.readlink(entry / "cwd")
        except OSError:
            continue  # ended meanwhile, or another user's
        after = words[words.index("run") + 1]
        if "adhmr" in " ".join(words[: words.index("run")]) and os.path.realpath(Path(folder) / after) == wanted:
            found.append(int(entry.name))
    return found


def _json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _config(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}
