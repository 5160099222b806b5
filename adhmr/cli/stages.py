"""Commands that start stages: `adhmr run`, `adhmr submit`, `adhmr pipeline`."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from adhmr.config.entry_points import STAGES
from adhmr.errors import AdhmrError


@click.command()
@click.argument("stage_file", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1)
@click.option("--check", is_flag=True, help="Check the configuration and stop.")
def run(stage_file: Path, overrides: tuple[str, ...], check: bool) -> None:
    """Run one stage: adhmr run STAGE.yaml [a.b=c ...]."""
    from pydantic import TypeAdapter

    from adhmr.atomic_file import write_atomically
    from adhmr.config.loading import load_config, save_resolved
    from adhmr.config.stages import Stage

    config = load_config(stage_file, list(overrides), TypeAdapter(Stage))
    if check:
        click.echo(f"{stage_file}: a valid {config.stage} stage, output {config.output}")
        return
    try:
        config.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AdhmrError(f"output {config.output}: cannot be made a folder ({error.strerror})") from None
    resolved = config.output / "config.yaml"
    former = resolved.read_bytes() if resolved.exists() else None
    try:
        save_resolved(config, resolved)
    except OSError as error:
        raise AdhmrError(f"{resolved}: cannot be written ({error.strerror}); make room, then start again") from None
    run_stage = stage_function(config.stage)
    if config.threads:
        import torch

        torch.set_num_threads(config.threads)
    try:
        run_stage(config)
    except AdhmrError:
        if former is not None and resolved.read_bytes() != former:
            write_atomically(resolved, former)  # a run folder that refused this configuration keeps its own
        raise


def stage_function(stage: str) -> Callable[[Any], None]:
    """What runs a stage. Its imports leave several hundred thousand objects for good. The garbage collector would look
    through them again and again: it waits until they are there, and passes them over from then on."""
    module, function = STAGES[stage].split(":")
    gc.disable()
    try:
        return getattr(importlib.import_module(module), function)
    finally:
        gc.freeze()
        gc.enable()


@click.command()
@click.argument("stage_file", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1)
@click.option("--cluster", default="local", show_default=True, help="A profile in configs/clusters, or a .yaml file.")
@click.option("--dry-run", is_flag=True, help="Say what would be submitted; submit nothing.")
def submit(stage_file: Path, overrides: tuple[str, ...], cluster: str, dry_run: bool) -> None:
    """Run one stage on a cluster: adhmr submit STAGE.yaml --cluster NAME [a.b=c ...]."""
    from launchers.cluster import load_cluster
    from launchers.estimate import describe
    from launchers.submission import submit as submit_stage

    profile = load_cluster(cluster)
    if dry_run:
        for line in describe(stage_file, profile, overrides):
            click.echo(line)
    submitted = submit_stage(stage_file, profile, overrides, dry_run=dry_run)
    if dry_run:
        click.echo(submitted.script, nl=False)
    elif submitted.code is None:
        click.echo(f"{submitted.run_dir}: submitted as job {submitted.job_id}")
    sys.exit(submitted.code or 0)


@click.command()
@click.argument("pipeline_file", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1)
@click.option("--cluster", metavar="NAME", help="Submit the stages there, a profile of configs/clusters or a file.")
@click.option("--dry-run", is_flag=True, help="Say what would be run or submitted, and stop.")
@click.option("--wait", is_flag=True, help="With --cluster: show the table of adhmr status until all jobs are over.")
@click.option(
    "--accept-code",
    multiple=True,
    metavar="STAGE|all",
    help="Results of STAGE count although another version of the code made them; repeatable.",
)
@click.option("--for", "wanted", multiple=True, metavar="STAGE", help="Only STAGE and what it needs; repeatable.")
@click.option("--keep-going", is_flag=True, help="After a stage that failed here, run those that do not need it.")
def pipeline(
    pipeline_file: Path,
    overrides: tuple[str, ...],
    cluster: str | None,
    dry_run: bool,
    wait: bool,
    accept_code: tuple[str, ...],
    wanted: tuple[str, ...],
    keep_going: bool,
) -> None:
    """Run a chain of stages: adhmr pipeline PIPE.yaml [variable=value ...] [stage.a.b=c ...]. A rerun continues."""
    from launchers.pipeline import run_pipeline

    run_pipeline(
        pipeline_file,
        list(overrides),
        cluster=cluster,
        dry_run=dry_run,
        wait=wait,
        accept_code=accept_code,
        wanted=wanted,
        keep_going=keep_going,
    )
