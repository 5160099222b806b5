"""A submitted stage on this machine, without SLURM: as many processes as it would have there, started again whenever a
job would be put back into the queue. The same verdicts, the same files in RUN/launch."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from adhmr.config.loading import load_config
from adhmr.config.stages import Stage
from adhmr.signals import EXIT_REQUEUE
from launchers.cluster import Allocation, ClusterConfig
from launchers.launch_folder import LaunchFolder
from launchers.logs import attempt_line
from launchers.preflight import check_node
from launchers.snapshot import import_variables
from launchers.stage_record import mark_done
from launchers.task import end_with_parent
from launchers.task_ends import TaskEnd, code_of
from launchers.verdict import Verdict, explain, judge, limits_of, progress_of

KILL_SECONDS = 30.0  # between SIGTERM and SIGKILL for the ranks that a failed one leaves behind
POLL_SECONDS = 0.1
PAUSE_SECONDS = 1.0  # before a restart


def run_local(run_dir: Path, owner: str, allocation: Allocation) -> int:
    """The exit code of the stage; EXIT_REQUEUE when this process was asked to stop. `run_dir` is prepared.

    Raises AdhmrError: this machine is unfit, where the profile wants to know.
    """
    return _LocalJob(run_dir, owner, allocation).run()


class _LocalJob:
    """The ranks of a stage, or the workers of an array, as children of this process."""

    def __init__(self, run_dir: Path, owner: str, allocation: Allocation):
        self.run_dir, self.owner, self.allocation = run_dir, owner, allocation
        self.folder = LaunchFolder(run_dir)
        self.config = load_config(run_dir / "config.yaml", [], TypeAdapter(Stage))
        self.cluster = load_config(self.folder.cluster_file, [], ClusterConfig)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.asked = False  # to stop: so are the ranks, and none is started again

    def run(self) -> int:
        if self.cluster.preflight:
            check_node(self.run_dir, self.allocation.gpus_per_node)
        numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
        former = {number: signal.signal(number, self._pass_on) for number in numbers}
        try:
            while True:
                verdict = self._attempt()
                if verdict.decision in ("done", "stop"):
                    return verdict.code
                if self.asked:
                    return EXIT_REQUEUE
                print(f"{self.run_dir}: started again ({verdict.reason})", file=sys.stderr, flush=True)
                time.sleep(PAUSE_SECONDS)
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def _attempt(self) -> Verdict:
        events = self.folder.events()
        history = [line for line in events if line.get("submission") == self.owner]
        about: dict[str, Any] = {
            "attempt": sum(line["event"] == "started" for line in events) + 1,
            "job": f"local-{os.getpid()}",
            "restart": sum(line["event"] == "started" for line in history),
            "submission": self.owner,
            "nodes": [socket.gethostname()],
        }
        begun = time.time()
        started = {"event": "started", **about, "progress": progress_of(self.config, self.run_dir, None)}
        self.folder.append_event(None, **started)
        self._start_ranks(about["attempt"])
        ends = self._wait()
        code = code_of(ends, len(ends), next((end.code for end in ends if end.code), 0))
        worker = None if self.allocation.array is None else next((end.rank for end in ends if end.code == code), 0)
        why = explain(self.folder, code, ends, worker, begun)
        progress = progress_of(self.config, self.run_dir, None)
        limits = limits_of(self.config, self.cluster)
        verdict = judge(code, why, self.folder.cancelled_file.exists(), [*history, started], progress, limits)
        record = self.folder.job()
        if verdict.decision == "done" and record is not None and record.fingerprint is not None:
            mark_done(self.run_dir, time.time() - begun)
        outcome = {"code": verdict.code, "decision": verdict.decision, "reason": verdict.reason}
        self.folder.append_event(None, event="ended", **about, **outcome, failed=verdict.failed, progress=progress)
        return verdict

    def _start_ranks(self, attempt: int) -> None:
        code = {**self.cluster.environment, **import_variables(self.folder.code)}
        ranks = 1 if self.allocation.array is not None else self.allocation.ranks
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            master = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        command = [self.cluster.python or sys.executable, "-m", "adhmr.cli", "run", str(self.run_dir / "config.yaml")]
        self.processes = []
        for number in range(self.allocation.array or ranks):
            rank = number if self.allocation.array is None else 0
            world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
            environment = {**os.environ, **code, **master, **{name: str(value) for name, value in world.items()}}
            log = self.folder.log(number) if self.allocation.array is None else self.folder.log(worker=number)
            with open(log, "ab") as file:
                file.write(f"{attempt_line(attempt, f'local-{os.getpid()}', socket.gethostname())}\n".encode())
                file.flush()
                self.processes.append(
                    subprocess.Popen(command, env=environment, stdout=file, stderr=file, preexec_fn=end_with_parent)
                )

    def _wait(self) -> list[TaskEnd]:
        """In the order of their ends. A rank that fails takes the others along; a worker of an array does not."""
        ends: list[TaskEnd] = []
        running = dict(enumerate(self.processes))
        kill_at: float | None = None
        while running:
            for number, process in list(running.items()):
                if process.poll() is None:
                    continue
                del running[number]
                code = process.returncode
                ends.append(TaskEnd(number, socket.gethostname(), code if code >= 0 else 128 - code))
                if code != 0 and kill_at is None and self.allocation.array is None:
                    kill_at = time.monotonic() + KILL_SECONDS
                    for other in running.values():
                        other.send_signal(signal.SIGTERM)
            if kill_at is not None and time.monotonic() > kill_at:
                for other in running.values():
                    other.kill()
            time.sleep(POLL_SECONDS)
        return ends

    def _pass_on(self, number: int, frame: object) -> None:
        """A terminal sends Ctrl-C to the ranks as well; anything else reaches this process alone."""
        self.asked = True
        if number != signal.SIGINT:
            for process in self.processes:
                process.send_signal(number)
