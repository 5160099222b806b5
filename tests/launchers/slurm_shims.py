"""Stand-ins for Slurm's commands on PATH, which say what a test wants; and run folders as the launchers leave them."""

import json
import os
import time
from pathlib import Path

import yaml

from launchers.launch_folder import JobRecord, LaunchFolder

SHIM = """#!/bin/bash
echo "$(basename "$0") $*" >> {folder}/calls
[[ -f {folder}/$(basename "$0").fail ]] && {{ cat {folder}/$(basename "$0").fail >&2; exit 1; }}
cat {folder}/$(basename "$0").txt 2>/dev/null
exit 0
"""


class Slurm:
    """Writes what squeue and sacct answer; `calls` are the command lines that were run."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()
        for name in ("squeue", "sacct", "scontrol", "scancel"):
            (folder / name).write_text(SHIM.format(folder=folder))
            (folder / name).chmod(0o755)

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def squeue(self, *lines: str) -> None:
        (self.folder / "squeue.txt").write_text("".join(f"{line}\n" for line in lines))

    def sacct(self, *lines: str) -> None:
        (self.folder / "sacct.txt").write_text("".join(f"{line}\n" for line in lines))

    def fail(self, command: str, message: str) -> None:
        (self.folder / f"{command}.fail").write_text(f"{message}\n")


def queue_line(
    run: Path,
    state: str,
    reason: str = "None",
    *,
    job: str = "70",
    task: str = "N/A",
    nodes: str = "n[1-2]",
    age: float = 300,
    started: float | None = 290,
    ended: float = 200,
    name: str = "base",
    script: str | None = None,
) -> str:
    """As squeue prints it; ages in seconds before now."""
    now = time.time()
    script = str(run / "launch" / "submission" / "submission_file_1.sh") if script is None else script
    begin = "N/A" if started is None else f"{now - started:.0f}"
    return f"{job}|{task}|{state}|{nodes}|{now - age:.0f}|{begin}|{now - ended:.0f}|{name}|{script}|{reason}"


def account_line(
    run: Path,
    state: str,
    *,
    job: str = "70",
    nodes: str = "n[1-2]",
    age: float = 300,
    started: float | None = 290,
    ended: float | None = 200,
    name: str = "base",
    code: str = "1:0",
    script: str | None = None,
) -> str:
    """As sacct prints it."""
    now = time.time()
    script = str(run / "launch" / "submission" / "submission_file_1.sh") if script is None else script
    begin, end = ("Unknown" if x is None else f"{now - x:.0f}" for x in (started, ended))
    return f"{job}|{state}|{nodes}|{now - age:.0f}|{begin}|{end}|{name}|{code}|/work|sbatch {script}"


class Run:
    """A submitted training run's folder."""

    def __init__(self, folder: Path, *, age: float = 400.0, kind: str = "slurm", array: int | None = None):
        self.folder = folder
        self.launch = LaunchFolder(folder)
        folder.mkdir(parents=True)
        self.write_config({"stage": "base", "train": {"steps": 100}})
        self.write_stage("started")
        record = JobRecord(
            name="base",
            stage="base",
            cluster="site",
            kind=kind,
            job_id="70",
            array=array,
            nodes=2,
            tasks_per_node=1,
            time_minutes=60,
            submitted=time.time() - age,
            after=[],
            fingerprint="a-b",
        )
        self.launch.write_job(record)
        self.launch.owner_file.write_text("ours\n")

    def write_config(self, values: dict) -> None:
        (self.folder / "config.yaml").write_text(yaml.safe_dump(values))

    def write_stage(self, state: str, fingerprint: str = "a-b") -> None:
        (self.folder / "stage.json").write_text(json.dumps({"state": state, "fingerprint": fingerprint}))

    def event(self, event: str, **more) -> None:
        self.launch.append_event(None, event=event, job="70", submission="ours", **more)

    def attempt(self, event: str, age: float = 280, **more) -> None:
        """A line of attempts.jsonl; `begun` on another machine unless told."""
        line = {"event": event, "attempt": 1, "step": 0, "time": time.time() - age, **more}
        if event == "begun":
            line = {"world_size": 2, "host": "elsewhere", "pid": 1, "job": "70", **line}
        with open(self.folder / "attempts.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")

    def heartbeats(self, ages: list[float], step: int = 40, phase: str = "step") -> None:
        """One a rank, written so many seconds ago."""
        now = time.time()
        folder = self.folder / "heartbeats"
        folder.mkdir(exist_ok=True)
        for rank, age in enumerate(ages):
            path = folder / f"rank-{rank:05d}.json"
            beat = {"rank": rank, "host": f"n{rank + 1}", "pid": 9, "step": step, "phase": phase, "order": 0}
            path.write_text(json.dumps({**beat, "since": now - age, "time": now - age}))
            os.utime(path, (now - age, now - age))

    def metrics(self, *lines: dict) -> None:
        with open(self.folder / "metrics.jsonl", "a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)

    def cancelled(self) -> None:
        self.launch.cancelled_file.write_text("")
