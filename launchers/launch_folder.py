"""RUN/launch/: what was submitted (job.json), what became of each attempt (events.jsonl) and where the rest lies.

Only the files and their formats; who decides what happens next is in step_end.py.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from adhmr.atomic_file import write_atomically
from adhmr.event_file import append_event, read_events

EXIT_BAD_NODE = 87  # the preflight found the node unfit: start again elsewhere
EXIT_CANCELLED = 130  # as after Ctrl-C

Decision = Literal["done", "requeue", "exclude", "stop"]


@dataclass(frozen=True)
class JobRecord:
    """job.json: the latest submission of a run."""

    name: str
    stage: str
    cluster: str  # the profile's name
    kind: Literal["slurm", "local"]
    job_id: str
    array: int | None  # workers; null: no array
    nodes: int
    tasks_per_node: int
    time_minutes: int
    submitted: float  # unix seconds
    after: list[str]  # job ids that it waits for
    fingerprint: str | None  # of the pipeline's stage; null: submitted alone


class LaunchFolder:
    """The paths inside RUN/launch and the reading and writing of its small files."""

    def __init__(self, run_dir: str | Path):
        self.run_dir = Path(run_dir)
        self.path = self.run_dir / "launch"
        self.job_file = self.path / "job.json"
        self.owner_file = self.path / "owner"  # which submission may work here: written before its job can start
        self.cluster_file = self.path / "cluster.yaml"  # the profile as it was at the submission
        self.submission = self.path / "submission"  # submitit's own files
        self.script = self.path / "batch.sh"  # the batch script as it was handed over, to read
        self.logs = self.path / "logs"
        self.code = self.path / "code"
        self.tasks = self.path / "tasks"  # how each rank of the latest attempt ended
        self.excluded_file = self.path / "excluded_nodes"
        self.cancelled_file = self.path / "cancelled"

    def log(self, rank: int = 0, worker: int | None = None) -> Path:
        return self.logs / (f"rank-{rank}.log" if worker is None else f"worker-{worker}.log")

    def batch_log(self, worker: int | None = None) -> Path:
        return self.logs / ("batch.log" if worker is None else f"batch-{worker}.log")

    def job(self) -> JobRecord | None:
        """None: never submitted."""
        try:
            return JobRecord(**json.loads(self.job_file.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def write_job(self, record: JobRecord) -> None:
        write_atomically(self.job_file, json.dumps(asdict(record), indent=1) + "\n")

    def owner(self) -> str:
        return self.owner_file.read_text().strip() if self.owner_file.exists() else ""

    def excluded(self) -> list[str]:
        """Names of nodes that no job of this run starts on."""
        return self.excluded_file.read_text().split() if self.excluded_file.exists() else []

    def exclude(self, nodes: list[str]) -> list[str]:
        """Notes `nodes`; all of them, with those of before."""
        names = list(dict.fromkeys([*self.excluded(), *nodes]))
        write_atomically(self.excluded_file, "".join(f"{name}\n" for name in names))
        return names

    def events(self, worker: int | None = None) -> list[dict[str, Any]]:
        """The lines of one worker's events file, oldest first, without torn ones."""
        return read_events(self._events_file(worker))

    def all_events(self) -> list[dict[str, Any]]:
        """Of the job and of all workers of an array, oldest first."""
        numbers = [path.stem.removeprefix("events-") for path in self.path.glob("events-*.jsonl")]
        workers = [None, *sorted(int(number) for number in numbers if number.isdecimal())]
        return sorted((line for worker in workers for line in self.events(worker)), key=lambda line: line["time"])

    def append_event(self, worker: int | None, **line: Any) -> None:
        """One line, on disk when this returns. A worker of an array has a file of its own: they write at once."""
        append_event(self._events_file(worker), {**line, "worker": worker})

    def _events_file(self, worker: int | None) -> Path:
        return self.path / ("events.jsonl" if worker is None else f"events-{worker}.jsonl")
