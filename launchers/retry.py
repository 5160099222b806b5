"""`adhmr retry RUN`: a run that failed or was cancelled goes on where it stopped, with the code and configuration that
were submitted. Who changed either submits the stage anew."""

from __future__ import annotations

import time
from pathlib import Path

from pydantic import TypeAdapter

from adhmr.config.loading import load_config
from adhmr.config.stages import Stage
from adhmr.errors import AdhmrError
from adhmr.preference.progress import retry_failed
from launchers.cluster import ClusterConfig, allocation_of
from launchers.job_state import UNSETTLED, State
from launchers.launch_folder import JobRecord, LaunchFolder
from launchers.local import run_local
from launchers.run_files import read_run
from launchers.run_status import run_status
from launchers.slurm_queue import Queue
from launchers.submission import submit_again

RETRIED: tuple[State, ...] = ("failed", "cancelled", "preempted", "stopped")


def retry(run: Path) -> str:
    """What was done. With a local run it returns when that has ended.

    Raises AdhmrError: the run was never submitted, goes on by itself, is done, or its state is not known.
    """
    folder, queue = LaunchFolder(run.absolute()), Queue()
    job = folder.job()
    if job is None:
        raise AdhmrError(f"{run}: was never submitted; start it with the command that it was started with")
    status = run_status(folder.run_dir, queue)
    lost = status.state == "unknown" and job.kind == "slurm" and _is_over(folder.run_dir, job, queue)
    if status.state not in RETRIED and not lost:
        because = f" ({status.reason})" if status.reason else ""
        raise AdhmrError(f"{run}: {status.state}{because}; expected a run that failed or was cancelled")
    config = load_config(folder.run_dir / "config.yaml", [], TypeAdapter(Stage))
    if config.shares_work and status.step is not None:
        retry_failed(folder.run_dir)
    folder.cancelled_file.unlink(missing_ok=True)
    for worker in [None] if job.array is None or job.kind == "local" else range(job.array):
        folder.append_event(worker, event="retried", submission=folder.owner())  # failures count from here
    if job.kind == "local":
        cluster = load_config(folder.cluster_file, [], ClusterConfig)
        code = run_local(folder.run_dir, folder.owner(), allocation_of(config, cluster))
        return f"{run}: ended with exit code {code}" if code else f"{run}: done"
    return f"{run}: {_put_back(folder, job, queue)}"


def _put_back(folder: LaunchFolder, job: JobRecord, queue: Queue) -> str:
    """The same job where Slurm still has it, so that jobs which wait for it go on waiting; else a new one."""
    rows = queue.ask([job.job_id])[job.job_id].queued or ()
    known = [row for row in rows if row.state != "COMPLETED"]
    if len(rows) == (job.array or 1) and known and all(row.submitted >= job.submitted - 60 for row in known):
        try:
            for row in known:
                queue.requeue(row.id)
            return f"job {job.job_id} was put back into the queue"
        except AdhmrError as refused:
            why = f" ({refused})"
    else:
        why = " (Slurm has forgotten the former one)"
    again = submit_again(folder.run_dir)
    return f"submitted as job {again.job_id}{why}; stages that waited for it: run their `adhmr pipeline` again"


def _is_over(run: Path, job: JobRecord, queue: Queue) -> bool:
    """Of a job whose end is lost: Slurm's controller does not have it, and no process of it gives a sign of life."""
    answer = queue.ask([job.job_id])[job.job_id]
    settled = time.time() - job.submitted > UNSETTLED
    return answer.queued == () and settled and read_run(run).life in ("dead", "silent", "none")
