"""A pipeline on a cluster: each run a job that waits for those it reads; what is done, waits or runs is left alone.

How a job is written and submitted is submission.py's; what its run folder says, stage_standing.py's.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import click

from adhmr.errors import AdhmrError
from launchers.checks import check_partition, check_stage
from launchers.cluster import Allocation, ClusterConfig, allocation_of
from launchers.pipeline_jobs import Job, jobs_of, left_out_of
from launchers.pipeline_plan import PlannedStage
from launchers.slurm_queue import Queue
from launchers.stage_record import Fingerprint
from launchers.stage_standing import Standing, accept, begin, set_aside, standing, untouched
from launchers.submission import submit_config


@dataclass(frozen=True)
class Step:
    """What is to be done about a run."""

    stage: PlannedStage
    stands: Standing
    job: Job | None  # its latest one
    submit: bool
    stale: bool = False  # its job waits for one that is no more: it is cancelled first


def run_on_cluster(
    name: str, stages: list[PlannedStage], cluster: ClusterConfig, accept_code: Collection[str], *, dry_run: bool
) -> None:
    """Submit what is neither done nor in the queue.

    Raises:
        AdhmrError: a stage does not fit the cluster; a job works in a folder that would have to be set aside; Slurm
            does not answer. Nothing was submitted then.
    """
    queue = Queue()
    jobs = jobs_of([*stages, *left_out_of(stages)], queue, click.echo)
    steps = _steps(stages, jobs, accept_code)
    _check_left_out(steps, jobs)
    _check(steps, cluster)
    ids: dict[str, str] = {}  # name of a run -> the job that its readers wait for
    for number, step in enumerate(steps, 1):
        stage, title = step.stage, f"[{number}/{len(steps)}] {step.stage.name}"
        after = [ids[one.name] for one in stage.inputs if one.name in ids]
        if not step.submit:
            if step.job is not None and step.job.lives and step.stands.state != "done":
                ids[stage.name] = step.job.record.job_id
            if not dry_run:
                accept(stage)
            left = f"done ({step.stands.seconds:.0f} s)" if stage.name not in ids else f"{step.job}"
            click.echo(f"{title}: {left}")
            continue
        for line in _history(step):
            click.echo(f"{title}: {line}")
        if dry_run:
            ids[stage.name] = stage.name
            click.echo(f"{title}: would be submitted{_resources(stage, cluster)}{_waits(after)}")
            continue
        if step.stale and step.job is not None:
            queue.cancel(step.job.record.job_id)
        if step.stands.state == "other":
            click.echo(f"{title}: {set_aside(stage.folder)}")
        begin(stage)
        submitted = submit_config(stage.config, cluster, stage.name, str(stage.fingerprint), after)
        ids[stage.name] = submitted.job_id
        click.echo(f"{title}: submitted as job {submitted.job_id}{_resources(stage, cluster)}{_waits(after)}")
    _summary(name, steps, ids, dry_run)


def _steps(stages: list[PlannedStage], jobs: dict[str, Job], accept_code: Collection[str]) -> list[Step]:
    steps: dict[str, Step] = {}
    for stage in stages:
        stands, job = standing(stage, accept_code), jobs.get(stage.name)
        if job is not None and job.lives and not _same(job, stage, stands, accept_code):
            keep = f", or keep it (--accept-code {stage.stage})" if stands.only_code else ""
            raise AdhmrError(
                f"{stage.folder}: {job}, but made from something else ({stands.changed or 'another start of it'}); "
                f"stop it first: adhmr cancel {stage.folder}{keep}"
            )
        if stands.state == "done":
            steps[stage.name] = Step(stage, stands, job, submit=False)
            continue
        if job is None or not job.lives:
            steps[stage.name] = Step(stage, stands, job, submit=True)
            continue
        inputs = [steps[one.name] for one in stage.inputs]
        waits = job.state == "blocked" or any(one.submit for one in inputs)
        started = job.state in ("running", "suspended", "ending", "requeued")
        if waits and started:
            made_anew = ", ".join(one.stage.name for one in inputs if one.submit)
            raise AdhmrError(
                f"{stage.folder}: {job}, but what it reads ({made_anew}) is to be made anew; "
                f"stop it first: adhmr cancel {stage.folder}"
            )
        steps[stage.name] = Step(stage, stands, job, submit=waits, stale=waits)
    return list(steps.values())


def _check_left_out(steps: list[Step], jobs: dict[str, Job]) -> None:
    """Raises AdhmrError: a job of a run that is left out would be taken its input away."""
    for step in (step for step in steps if step.submit):
        for run in step.stage.left_out:
            job = jobs.get(run.name)
            if job is not None and job.lives:
                raise AdhmrError(
                    f"{run.folder}: {job}, but what it reads ({step.stage.name}) is to be made anew; "
                    f"stop it first: adhmr cancel {run.folder}"
                )


def _check(steps: list[Step], cluster: ClusterConfig) -> None:
    """All that is to be submitted, before the first one is."""
    awaited = {step.stage.name for step in steps if step.stands.state != "done"}
    checked: set[Allocation] = set()
    for step in (step for step in steps if step.submit):
        try:
            allocation = allocation_of(step.stage.config, cluster)
            check_stage(
                step.stage.config, allocation, cluster, [x.name for x in step.stage.inputs if x.name in awaited]
            )
            if allocation not in checked:
                check_partition(allocation, cluster)
                checked.add(allocation)
        except AdhmrError as error:
            raise AdhmrError(f"stage {step.stage.name}: {error}; nothing was submitted") from None


def _same(job: Job, stage: PlannedStage, stands: Standing, accept_code: Collection[str]) -> bool:
    """Whether a job that lives makes what is planned."""
    made = Fingerprint.read(job.record.fingerprint or "")
    if made == stage.fingerprint:
        return True
    accepted = {"all", stage.stage, stage.name} & set(accept_code)
    return bool(accepted) and made is not None and made.settings == stage.fingerprint.settings


def _history(step: Step) -> list[str]:
    """Why a run that was begun or submitted before is submitted again."""
    lines = []
    if step.job is not None and step.job.state != "done":
        lines.append(f"{step.job}")
    if step.stands.state == "other":
        keep = f" (--accept-code {step.stage.stage} keeps it)" if step.stands.only_code else ""
        lines.append(f"made anew: {step.stands.changed}{keep}")
    elif step.stands.state == "begun" and not untouched(step.stage.folder):
        lines.append("goes on where it stopped")
    return lines


def _resources(stage: PlannedStage, cluster: ClusterConfig) -> str:
    of = allocation_of(stage.config, cluster)
    jobs = f", {of.array} workers" if of.array else ""
    gpus = f", {of.gpus_per_node} GPUs a node" if of.gpus_per_node else ""
    nodes = "1 node" if of.nodes == 1 else f"{of.nodes} nodes"
    tasks = "1 task" if of.tasks_per_node == 1 else f"{of.tasks_per_node} tasks"
    return f" ({nodes} x {tasks}{jobs}{gpus}, {of.time_minutes} min)"


def _waits(after: list[str]) -> str:
    return f", after {', '.join(after)}" if after else ""


def _summary(name: str, steps: list[Step], ids: dict[str, str], dry_run: bool) -> None:
    new = sum(step.submit for step in steps)
    queued = len(ids) - new
    done = len(steps) - len(ids)
    if done == len(steps):
        click.echo(f"{name}: all {done} stages are done")
        return
    words = "would be submitted" if dry_run else "submitted"
    click.echo(
        f"{name}: {done} done, {queued} in the queue, {new} {words}; adhmr status {steps[0].stage.folder.parent}"
    )
