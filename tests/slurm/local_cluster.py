"""A real Slurm cluster on this machine (slurm/local_cluster.sh) for the tests: its commands, its faults, its jobs."""

import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).resolve().parents[2] / "slurm" / "local_cluster.sh"
PATIENCE = 300  # seconds for anything to happen: machines are shared, and slurmctld may take long to miss a node


def wait_for(what: str, found: Callable[[], Any], seconds: float = PATIENCE, every: float = 0.1) -> Any:
    """The first true value of `found()`; the test fails when there is none in that time."""
    until = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < until, f"after {seconds} s: no {what}"
        time.sleep(every)
    return value


class LocalCluster:
    """The cluster of a directory and its ports. Nodes are n1, n2, ...; partitions: slurm/README.md."""

    def __init__(self, directory: Path, port: int, nodes: int, own_networks: bool):
        self.directory, self.nodes, self.own_networks = directory, nodes, own_networks
        settings = {"DIR": directory, "PORT": port, "NODES": nodes, "CPUS": 2, "NET": int(own_networks)}
        self._settings = {f"SLURM_LOCAL_{name}": str(value) for name, value in settings.items()}

    def command(self, *arguments: str) -> None:
        """slurm/local_cluster.sh with these arguments. Its daemons would keep a pipe open: a file takes the output."""
        log = self.directory.with_suffix(".log")
        with open(log, "w") as output:
            line = ["bash", str(SCRIPT), *arguments]
            done = subprocess.run(line, env={**os.environ, **self._settings}, stdout=output, stderr=output, stdin=-3)
        assert done.returncode == 0, f"{' '.join(arguments)}: {log.read_text()}"

    # ------------------------------------------------------------------------------------------- faults
    def crash(self, node: str) -> None:
        """It loses power."""
        self.command("node-crash", node)

    def freeze(self, node: str) -> None:
        self.command("node-freeze", node)

    def thaw(self, node: str) -> None:
        self.command("node-thaw", node)

    def kill_slurmd(self, node: str) -> None:
        """Its jobs go on."""
        self.command("node-stop", node)

    def start_node(self, node: str) -> None:
        self.command("node-start", node)

    def cut(self, node: str) -> None:
        self.command("net-cut", node)

    def join(self, node: str) -> None:
        self.command("net-join", node)

    def pids(self, node: str, words: str) -> list[int]:
        """Processes of a node whose command line holds `words`."""
        namespace = os.stat(self.directory / f"run/{node}.uts").st_ino
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if os.stat(process / "ns/uts").st_ino != namespace:
                    continue
                line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue  # it has ended
            if words in line:
                found.append(int(process.name))
        return sorted(found)

    def heal(self) -> None:
        """Every node as at the start, no job in the queue."""
        names = [f"n{number + 1}" for number in range(self.nodes)]
        for name in names:
            self.thaw(name)
            if self.own_networks:
                self.join(name)
            self.start_node(name)
        self.run("scancel", "--full", "--user", "root")
        bad = r"DOWN|DRAIN|FAIL"
        for name in names:
            if re.search(bad, self.node_state(name)):
                self.run("scontrol", "update", f"nodename={name}", "state=resume")
        wait_for("empty queue", lambda: not self.run("squeue", "--noheader"))
        self.command("wait-idle", "60")

    # ------------------------------------------------------------------------------------------- jobs
    def run(self, *line: str | Path) -> str:
        """Output of one of Slurm's commands."""
        done = subprocess.run([*map(str, line)], capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, f"{' '.join(map(str, line))}: {done.stderr}"
        return done.stdout.strip()

    def node_state(self, node: str) -> str:
        """What slurmctld knows of a node: IDLE, DOWN+NOT_RESPONDING, ... Not from sinfo, which in Slurm 22.05 can go on
        calling a node mixed that is down."""
        return _fields(self.run("scontrol", "show", "node", node))["State"]

    def sbatch(self, script: str, *options: str, folder: Path) -> str:
        """The id of a new job; its output is folder/ID.log."""
        log = f"--output={folder}/%j.log"
        line = ["sbatch", "--parsable", "--open-mode=append", log, *options]
        done = subprocess.run(line, input=f"#!/bin/bash\n{script}\n", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def job(self, job_id: str) -> dict[str, str]:
        """What slurmctld knows of a job: JobState, Restarts, NodeList, Reason, ..."""
        return _fields(self.run("scontrol", "show", "job", job_id))

    def wait_state(self, job_id: str, *states: str, seconds: float = PATIENCE) -> dict[str, str]:
        """The job when it is in one of these states."""

        def there() -> dict[str, str] | None:
            job = self.job(job_id)
            return job if job["JobState"] in states else None

        return wait_for(f"job {job_id} in {' or '.join(states)}", there, seconds)


def _fields(shown: str) -> dict[str, str]:
    """The KEY=VALUE pairs of `scontrol show`."""
    return dict(re.findall(r"(\w[\w:/]*)=(\S*)", shown))
