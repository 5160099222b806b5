"""`adhmr pipeline PIPE.yaml`: the runs of a pipeline, here or on a cluster; what is done is skipped, the rest goes on.

What the runs are: pipeline_plan.py; how each stands: stage_standing.py; what a stage does is not known here.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import click

from adhmr.errors import AdhmrError
from launchers.pipeline_local import run_here
from launchers.pipeline_lock import pipeline_lock
from launchers.pipeline_plan import PlannedStage, plan_pipeline
from launchers.stage_standing import standing


def run_pipeline(
    path: Path,
    overrides: list[str],
    *,
    accept_code: Collection[str] = (),
    cluster: str | None = None,
    dry_run: bool = False,
) -> None:
    """accept_code: stages, or "all", whose results count although another version of the code made them.

    Raises:
        AdhmrError: a mistake in the files, told before anything runs; or a stage failed.
    """
    stages = plan_pipeline(path, overrides)
    known = {"all", *(stage.stage for stage in stages), *(stage.name for stage in stages)}
    unknown = [name for name in accept_code if name not in known]
    if unknown:
        raise AdhmrError(
            f"--accept-code {unknown[0]}: no stage of that name; expected one of {', '.join(sorted(known))}"
        )
    if dry_run:
        for number, stage in enumerate(stages, 1):
            click.echo(f"[{number}/{len(stages)}] {stage.name}: {_plan_line(stage, accept_code)}")
        return
    with pipeline_lock(stages[0].folder.parent) as lock:
        run_here(path.stem, stages, accept_code, lock)


def _plan_line(stage: PlannedStage, accept_code: Collection[str]) -> str:
    stands = standing(stage, accept_code)
    if stands.state == "other":
        keep = f"; --accept-code {stage.stage} keeps it" if stands.only_code else ""
        return f"would run anew, the old result kept as {stage.folder.name}.previous: {stands.changed}{keep}"
    seconds = f"done ({stands.seconds:.0f} s)"
    return {"done": seconds, "begun": "would go on where it stopped", "new": "would run"}[stands.state]
