"""`adhmr pipeline PIPE.yaml`: the runs of a pipeline, here or on a cluster; what is done is skipped, the rest goes on.

What the runs are: pipeline_plan.py; how each stands: stage_standing.py; what a stage does is not known here.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import click

from adhmr.errors import AdhmrError
from launchers.cluster import load_cluster
from launchers.launch_folder import LaunchFolder
from launchers.pipeline_cluster import run_on_cluster
from launchers.pipeline_jobs import jobs_of, left_out_of
from launchers.pipeline_local import run_here
from launchers.pipeline_lock import pipeline_lock
from launchers.pipeline_plan import PlannedStage, plan_pipeline
from launchers.pipeline_wait import wait_for
from launchers.slurm_queue import Queue
from launchers.stage_standing import standing


def run_pipeline(
    path: Path,
    overrides: list[str],
    *,
    cluster: str | None = None,
    dry_run: bool = False,
    wait: bool = False,
    accept_code: Collection[str] = (),
    wanted: Collection[str] = (),
    keep_going: bool = False,
) -> None:
    """cluster: a profile's name; None: here, a process a stage. wait: for the jobs on a cluster.

    accept_code: stages, or "all", whose results count although another version of the code made them.
    wanted: stages that are run with what they need, and no others; none: all.
    keep_going: after a stage that failed here, go on with those that do not need it.

    Raises:
        AdhmrError: a mistake in the files, told before anything runs; or a stage failed.
    """
    stages = plan_pipeline(path, overrides, wanted)
    known = {"all", *(stage.stage for stage in stages), *(stage.name for stage in stages)}
    unknown = [name for name in accept_code if name not in known]
    if unknown:
        names = ", ".join(sorted(known))
        chosen = " among those chosen with --for" if wanted else ""
        raise AdhmrError(f"--accept-code {unknown[0]}: no stage of that name{chosen}; expected one of {names}")
    profile = None if cluster is None else load_cluster(cluster)
    on_slurm = profile if profile is not None and profile.kind == "slurm" else None
    if wait and on_slurm is None:
        raise AdhmrError("--wait is for --cluster with a profile of kind slurm; here a pipeline is waited for anyway")
    if keep_going and on_slurm is not None:
        raise AdhmrError("--keep-going is for a pipeline run here; on a cluster jobs wait for those they read alone")
    output = stages[0].folder.parent
    for folder in (output, *(stage.folder for stage in stages)):
        if folder.exists() and not folder.is_dir():
            raise AdhmrError(f"{folder} is a file, where a folder of runs should be; move it, or choose another output")
    if on_slurm is not None and dry_run:
        run_on_cluster(path.stem, stages, on_slurm, accept_code, dry_run=True)
    elif on_slurm is not None:
        with pipeline_lock(output):
            run_on_cluster(path.stem, stages, on_slurm, accept_code, dry_run=False)
        if wait:
            wait_for(path.stem, stages, Queue())
    elif dry_run:
        for number, stage in enumerate(stages, 1):
            click.echo(f"[{number}/{len(stages)}] {stage.name}: {_plan_line(stage, accept_code)}")
    else:
        with pipeline_lock(output) as lock:
            _refuse_beside_jobs(stages)
            run_here(path.stem, stages, accept_code, lock, profile, keep_going=keep_going)


def _refuse_beside_jobs(stages: list[PlannedStage]) -> None:
    """Raises AdhmrError: a job on Slurm works on one of these runs, or on one that reads them."""
    runs = [*stages, *left_out_of(stages)]
    if any((record := LaunchFolder(run.folder).job()) and record.kind == "slurm" for run in runs):
        for name, job in jobs_of(runs, Queue(), click.echo).items():
            if job.lives:
                raise AdhmrError(f"{name}: {job}; wait for it, `adhmr cancel` it, or go on there with --cluster")


def _plan_line(stage: PlannedStage, accept_code: Collection[str]) -> str:
    stands = standing(stage, accept_code)
    if stands.state == "other":
        keep = f"; --accept-code {stage.stage} keeps it" if stands.only_code else ""
        return f"would run anew, the old result kept as {stage.folder.name}.previous: {stands.changed}{keep}"
    seconds = f"done ({stands.seconds:.0f} s)"
    return {"done": seconds, "begun": "would go on where it stopped", "new": "would run"}[stands.state]
