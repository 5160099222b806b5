"""`adhmr submit`: from a stage's configuration to a job. Everything is checked, then the run folder gets what the job
needs (configuration, code, profile), then it is queued; with kind local the stage runs here, until it ends."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter
from submitit.core.utils import FailedJobError, FailedSubmissionError

from adhmr.atomic_file import write_atomically
from adhmr.config.common import StageConfig
from adhmr.config.loading import load_config, save_resolved
from adhmr.config.stages import Stage
from adhmr.errors import AdhmrError
from launchers.batch_script import StageExecutor, make_executor, script_text
from launchers.checks import check_partition, check_stage
from launchers.cluster import Allocation, ClusterConfig, allocation_of
from launchers.launch_folder import JobRecord, LaunchFolder
from launchers.local import run_local
from launchers.slurm_queue import Queue
from launchers.snapshot import take_snapshot
from launchers.task import StageTask

LIVES = ("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "STOPPED")


@dataclass(frozen=True)
class Submitted:
    run_dir: Path  # absolute
    job_id: str  # "" after a dry run
    script: str  # the batch script; "" with kind local
    code: int | None = None  # with kind local the exit code of the stage, which has ended


def submit(
    stage_file: Path,
    cluster: ClusterConfig,
    overrides: Sequence[str] = (),
    *,
    after: Sequence[str] = (),
    dry_run: bool = False,
) -> Submitted:
    """Of a stage file, as `adhmr run` reads it. Raises AdhmrError as submit_config."""
    config = load_config(stage_file, list(overrides), TypeAdapter(Stage))
    return submit_config(config, cluster, Path(config.output).name, None, after, dry_run=dry_run)


def submit_config(
    config: StageConfig,
    cluster: ClusterConfig,
    name: str,
    fingerprint: str | None,
    after: Sequence[str] = (),
    *,
    dry_run: bool = False,
) -> Submitted:
    """name: of the job. fingerprint: of a pipeline's stage; None: submitted alone.

    after: job ids; the job starts when all of them have ended with exit code 0, and is cancelled when one has not.

    Raises AdhmrError: something does not fit, a job of this run lives, sbatch refuses. Nothing was queued then.
    """
    folder = LaunchFolder(Path(config.output).absolute())
    allocation = allocation_of(config, cluster)
    check_stage(config, allocation, cluster, after)
    if cluster.kind == "local":
        if dry_run:
            return Submitted(folder.run_dir, "", "")
        _refuse_a_second(folder)
        record = _record(config, cluster, allocation, name, fingerprint, f"local-{os.getpid()}", ())
        owner = _prepare(folder, config, cluster)
        folder.write_job(record)
        return Submitted(folder.run_dir, record.job_id, "", run_local(folder.run_dir, owner, allocation))
    owner = secrets.token_hex(4)
    executor = make_executor(folder, name, owner, allocation, cluster, list(after))
    script = script_text(executor, allocation.array)
    if dry_run:
        return Submitted(folder.run_dir, "", script)
    check_partition(allocation, cluster)
    _refuse_a_second(folder)
    with _put_back_on_failure(folder):
        _prepare(folder, config, cluster, owner)
        write_atomically(folder.script, script)
        job_id = _sbatch(executor, _task(folder, allocation, cluster), allocation)
    folder.write_job(_record(config, cluster, allocation, name, fingerprint, job_id, after))
    return Submitted(folder.run_dir, job_id, script)


def submit_again(run_dir: Path) -> JobRecord:
    """A new job of a run whose own job cannot be requeued, as it was submitted, without the jobs it waited for.

    Raises AdhmrError: it was never submitted, or sbatch refuses.
    """
    folder = LaunchFolder(run_dir.absolute())
    former = folder.job()
    if former is None:
        raise AdhmrError(f"{folder.job_file}: no job; submit the stage with `adhmr submit`")
    config = load_config(folder.run_dir / "config.yaml", [], TypeAdapter(Stage))
    cluster = load_config(folder.cluster_file, [], ClusterConfig)
    allocation = allocation_of(config, cluster)
    executor = make_executor(folder, former.name, folder.owner(), allocation, cluster, [])
    write_atomically(folder.script, script_text(executor, allocation.array))
    job_id = _sbatch(executor, _task(folder, allocation, cluster), allocation)
    record = _record(config, cluster, allocation, former.name, former.fingerprint, job_id, ())
    folder.write_job(record)
    return record


def _prepare(folder: LaunchFolder, config: StageConfig, cluster: ClusterConfig, owner: str = "") -> str:
    """Fills RUN/launch. From the moment that `owner` is written, jobs of former submissions do nothing more."""
    owner = owner or secrets.token_hex(4)
    folder.logs.mkdir(parents=True, exist_ok=True)
    take_snapshot(folder.code)
    save_resolved(config, folder.run_dir / "config.yaml")
    save_resolved(cluster, folder.cluster_file)
    shutil.rmtree(folder.tasks, ignore_errors=True)
    shutil.rmtree(folder.submission, ignore_errors=True)  # submitit's files of former jobs
    folder.cancelled_file.unlink(missing_ok=True)
    write_atomically(folder.owner_file, owner + "\n")
    return owner


def _refuse_a_second(folder: LaunchFolder) -> None:
    record = folder.job()
    if record is None or record.kind == "local":
        return
    answer = Queue().ask([record.job_id])[record.job_id]
    rows = answer.queued
    if rows is None:
        raise AdhmrError(f"{folder.job_file}: whether job {record.job_id} still runs is not known ({answer.problem})")
    alive = [row for row in rows if row.state in LIVES]
    if alive:
        raise AdhmrError(
            f"{folder.run_dir}: job {alive[0].id} works there already ({alive[0].state}); `adhmr cancel` it first, or "
            "choose another output"
        )


@contextlib.contextmanager
def _put_back_on_failure(folder: LaunchFolder) -> Iterator[None]:
    """A submission that sbatch refuses leaves the configuration of a former one in its place."""
    files = (folder.run_dir / "config.yaml", folder.cluster_file, folder.script)
    former = {file: file.read_bytes() for file in files if file.exists()}
    try:
        yield
    except AdhmrError:
        for file, content in former.items():
            write_atomically(file, content)
        raise


def _sbatch(executor: StageExecutor, task: StageTask, allocation: Allocation) -> str:
    """The job id; of an array without an index."""
    inside = [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_", "SRUN_")) and name != "SLURM_CONF"]
    former = {name: os.environ.pop(name) for name in inside}  # a job that submits must not hand its own size on
    try:
        if allocation.array is None:
            return executor.submit(task).job_id
        jobs = executor.submit_array([task] * allocation.array)
        return jobs[0].job_id.split("_")[0]
    except (FailedJobError, FailedSubmissionError, OSError) as error:
        said = " ".join(str(error).split())
        raise AdhmrError(f"sbatch refuses the job: {said[-400:]}") from None
    finally:
        os.environ.update(former)


def _task(folder: LaunchFolder, allocation: Allocation, cluster: ClusterConfig) -> StageTask:
    return StageTask(str(folder.run_dir), allocation.gpus_per_node, cluster.preflight)


def _record(
    config: StageConfig,
    cluster: ClusterConfig,
    allocation: Allocation,
    name: str,
    fingerprint: str | None,
    job_id: str,
    after: Sequence[str],
) -> JobRecord:
    return JobRecord(
        name=name,
        stage=config.stage,
        cluster=cluster.name or cluster.kind,
        kind=cluster.kind,
        job_id=job_id,
        array=allocation.array,
        nodes=allocation.nodes,
        tasks_per_node=allocation.tasks_per_node,
        time_minutes=allocation.time_minutes,
        submitted=time.time(),
        after=list(after),
        fingerprint=fingerprint,
    )
