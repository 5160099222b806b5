"""One rank of a job: submitit calls StageTask in each process that srun starts. The stage itself runs in a child, so
that submitit's signal handlers, its pickles and its imports have nothing to do with it."""

from __future__ import annotations

import ctypes
import math
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from submitit.slurm.slurm import SlurmJobEnvironment

from launchers.launch_folder import EXIT_BAD_NODE, LaunchFolder
from launchers.logs import attempt_line
from launchers.task_ends import TaskEnd, job_name, worker_of, write_task_end

PORTS = (20000, 32000)  # below the ports that Linux gives to outgoing connections
LAST_SECONDS = 10  # of a job: for step_end to say what follows
PR_SET_PDEATHSIG = 1  # of Linux
NOTED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT, signal.SIGINT)


@dataclass(frozen=True)
class StageTask:
    """Pickled by reference to this class: the job finds it in the snapshot."""

    run_dir: str  # absolute
    gpus: int  # of each node; 0: none asked for
    preflight: bool

    def __call__(self) -> None:
        """Raises SystemExit with the stage's exit code; submitit records no result then."""
        for number in NOTED:  # in place of submitit's; SLURM signals the child too
            signal.signal(number, _note)
        environment = {**os.environ, **rank_variables()}
        raise SystemExit(run_rank(Path(self.run_dir), environment, self.gpus if self.preflight else None))


def rank_variables() -> dict[str, str]:
    """What torch.distributed is told, from what srun sets in this process's environment."""
    job = SlurmJobEnvironment()
    nodes = job.hostnames
    # Another port after each restart: the former one may still be held by a process that does not die.
    seed = f"{job.job_id}-{os.environ.get('SLURM_RESTART_COUNT', '0')}"
    return {
        "RANK": str(job.global_rank),
        "WORLD_SIZE": str(job.num_tasks),
        "LOCAL_RANK": str(job.local_rank),
        "LOCAL_WORLD_SIZE": str(job.num_tasks // len(nodes)),
        "MASTER_ADDR": nodes[0],
        "MASTER_PORT": str(random.Random(seed).randint(*PORTS)),
    }


def run_rank(run_dir: Path, environment: Mapping[str, str], check_gpus: int | None) -> int:
    """Runs the stage as one rank, notes how it ended, returns its exit code.

    check_gpus: look at the node first, once a node; None: do not.
    """
    code = 0
    if check_gpus is not None and environment.get("LOCAL_RANK", "0") == "0":
        code = _run([sys.executable, "-m", "launchers.preflight", str(run_dir), "--gpus", str(check_gpus)], environment)
        code = code if code in (0, 2) else EXIT_BAD_NODE  # one that was killed, or could not even start: this node's
    if code == 0:
        _say_attempt(LaunchFolder(run_dir), environment)
        code = _run([sys.executable, "-m", "adhmr.cli", "run", str(run_dir / "config.yaml")], environment)
    end = TaskEnd(
        rank=int(environment.get("RANK", "0")),
        node=environment.get("SLURMD_NODENAME") or socket.gethostname(),
        code=code,
    )
    try:
        write_task_end(LaunchFolder(run_dir), environment, end)
    except OSError as error:  # step_end then knows what srun tells it
        print(f"{run_dir}: how this rank ended could not be noted ({error.strerror})", file=sys.stderr, flush=True)
    return code


def _say_attempt(folder: LaunchFolder, environment: Mapping[str, str]) -> None:
    """Log files grow over all attempts: `adhmr logs` finds the latest by this line."""
    events = folder.events(worker_of(environment))
    attempt = sum(line["event"] == "started" for line in events) or 1
    print(attempt_line(attempt, job_name(environment), socket.gethostname()), flush=True)


def _run(words: list[str], environment: Mapping[str, str]) -> int:
    """The exit code of a child that does not outlive this process; 128 + n when signal n killed it.

    A child that heard no signal, hanging perhaps, is killed shortly before the job's end. SLURM's own kill at the end
    takes the batch script as well, and nobody would be left to requeue the job.
    """
    child = subprocess.Popen(words, env=dict(environment), preexec_fn=end_with_parent)
    left = float(environment.get("ADHMR_JOB_END") or "inf") - LAST_SECONDS - time.time()
    try:
        code = child.wait(left if 0 < left < math.inf else None)  # an end that has passed is stale
    except subprocess.TimeoutExpired:
        print(f"killed {LAST_SECONDS} s before the job's end: it did not leave by itself", file=sys.stderr, flush=True)
        child.kill()
        code = child.wait()
    return code if code >= 0 else 128 - code


def end_with_parent() -> None:
    """For a child to call before it becomes another program."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _note(number: int, frame: object) -> None:
    """The child decides what follows from a signal; this process waits for it."""
