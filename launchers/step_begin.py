"""`python -m launchers.step_begin RUN OWNER`, on the batch host before the ranks start: notes the attempt, and prints
the unix time at which the job ends. Exit code 0: go on; anything else: do not start the ranks."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from pydantic import TypeAdapter
from submitit.slurm.slurm import SlurmJobEnvironment

from adhmr.config.loading import load_config
from adhmr.config.stages import Stage
from adhmr.errors import AdhmrError
from adhmr.training.attempts import EXIT_STALE
from launchers.launch_folder import EXIT_CANCELLED, LaunchFolder
from launchers.slurm_job import end_of_job
from launchers.task_ends import forget_former_attempts, job_name, restart_of, worker_of
from launchers.verdict import progress_of


def begin_attempt(run_dir: Path, owner: str) -> int:
    """The exit code; 0 after the line `started` was added to the events.

    owner: the submission that this job is of. A job of a former one, requeued late, must not start beside the new.
    """
    folder = LaunchFolder(run_dir)
    if folder.owner() != owner:
        _say(f"{run_dir}: was submitted again after this job; it does nothing more")
        return EXIT_STALE
    if folder.cancelled_file.exists():
        _say(f"{run_dir}: cancelled; `adhmr retry {run_dir}` starts it again")
        return EXIT_CANCELLED
    worker = worker_of(os.environ)
    nodes = SlurmJobEnvironment().hostnames
    forget_former_attempts(folder, os.environ)
    started = [line for line in folder.events(worker) if line["event"] == "started"]
    folder.append_event(
        worker,
        event="started",
        attempt=len(started) + 1,
        job=job_name(os.environ),
        restart=restart_of(os.environ),
        submission=owner,
        nodes=nodes,
        progress=progress_of(load_config(run_dir / "config.yaml", [], TypeAdapter(Stage)), run_dir, worker),
    )
    _say(f"attempt {len(started) + 1} of {run_dir} as job {job_name(os.environ)} on {', '.join(nodes)}")
    return 0


def _say(text: str) -> None:
    """In the batch log; stdout is for the time."""
    print(f"[{time.strftime('%F %T')}] {text}", file=sys.stderr, flush=True)


def main() -> None:
    run_dir, owner = sys.argv[1:]
    try:
        code = begin_attempt(Path(run_dir), owner)
    except AdhmrError as error:
        _say(f"error: {error}")
        code = error.exit_code
    if code == 0:
        end = end_of_job(os.environ["SLURM_JOB_ID"])
        print("" if end is None else f"{end:.0f}")
    sys.exit(code)


if __name__ == "__main__":
    main()
