"""The group `adhmr checkpoint`: what a training run has saved."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.group()
def checkpoint() -> None:
    """Checkpoints of a training run."""


@checkpoint.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
def show(run_folder: Path) -> None:
    """A table of the checkpoints: step, size, when, why each is kept, whether it is whole by its sizes, evaluation."""
    from adhmr.training.checkpoint_report import show

    click.echo(show(run_folder))


@checkpoint.command("verify")
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
def verify_checkpoints(run_folder: Path) -> None:
    """Check every file of every checkpoint against its hash; exit code 1 when one is damaged."""
    from adhmr.training.checkpoint_report import verified

    damaged = False
    for folder, problem in verified(run_folder):
        click.echo(f"{folder}: {'whole' if problem is None else f'damaged: {problem}'}")
        damaged |= problem is not None
    if damaged:
        sys.exit(1)


@checkpoint.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--step", default="last", show_default=True, metavar="N|last|best", help="which checkpoint")
@click.option("--weights", type=click.Choice(["ema", "raw"]), help="default: the average (ema) where there is one")
def export(run_folder: Path, output: Path, step: str, weights: str | None) -> None:
    """Write the weights of a checkpoint as a file (OUTPUT, .safetensors) that every stage accepts."""
    from adhmr.training.checkpoint_export import export_checkpoint

    if step not in ("last", "best") and not step.isdecimal():
        raise click.BadParameter(f"'{step}' is neither a number nor last nor best", param_hint="--step")
    click.echo(export_checkpoint(run_folder, output, step, weights))
