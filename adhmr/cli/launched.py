"""Commands that look after what was started: `adhmr status`, `logs`, `cancel`, `retry`; and the scaling experiment."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN...]", type=click.Path(path_type=Path))
@click.option("--watch", is_flag=True, help="Draw it again every few seconds.")
@click.option("--every", default=5.0, show_default=True, type=click.FloatRange(1), help="Seconds of --watch.")
@click.option("--json", "as_json", is_flag=True, help="For machines: a list of objects.")
def status(runs: tuple[Path, ...], watch: bool, every: float, as_json: bool) -> None:
    """State, step, loss, rate, ETA, nodes and restarts of runs and pipelines (default: all below this folder)."""
    from launchers.status_table import show_status

    show_status(runs or (Path("."),), every if watch else None, as_json)


@click.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--rank", default=0, show_default=True, type=click.IntRange(0), help="Which process of the run.")
@click.option("--worker", type=click.IntRange(0), help="Which worker of an array (default: 0).")
@click.option("--batch", is_flag=True, help="The batch script's own log instead.")
@click.option("--attempt", type=click.IntRange(0), help="Which attempt; 0: all (default: the latest).")
@click.option("--follow", is_flag=True, help="Go on with what is written, until Ctrl-C.")
def logs(run_folder: Path, rank: int, worker: int | None, batch: bool, attempt: int | None, follow: bool) -> None:
    """What a submitted run has printed."""
    from launchers.logs import lines_of, log_file

    for text in lines_of(log_file(run_folder, rank, worker, batch), attempt, follow):
        click.echo(text, nl=False)


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option("--grace", default=180.0, show_default=True, type=click.FloatRange(0), help="Seconds to save and end in.")
def cancel(runs: tuple[Path, ...], grace: float) -> None:
    """Ask runs, or all of a pipeline's folder, to save and end; those that do not within --grace are ended."""
    from launchers.cancel import cancel
    from launchers.run_status import find_runs

    cancel([run for folder in runs for run in find_runs(folder)], grace, click.echo)


@click.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
def retry(run_folder: Path) -> None:
    """Let a submitted run that failed or was cancelled go on, with the same code and configuration."""
    from launchers.retry import retry

    click.echo(retry(run_folder))


@click.command()
@click.argument("stage_file", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1)
@click.option("--nodes", required=True, metavar="N,N,...", help="Numbers of nodes, as 1,2,4,8.")
@click.option("--cluster", default="local", show_default=True, metavar="NAME", help="A profile, or a .yaml file.")
@click.option("--weak/--strong", default=True, help="The batch grows with the nodes (weak, default), or stays.")
@click.option("--steps", default=40, show_default=True, type=click.IntRange(1), help="Measured steps of each size.")
@click.option("--warmup", default=10, show_default=True, type=click.IntRange(0), help="Steps before them.")
@click.option("--output", type=click.Path(path_type=Path), help="Default: the stage's output, with -scale-weak.")
@click.option("--dry-run", is_flag=True, help="Print the sizes and batches, and stop.")
def scale(
    stage_file: Path,
    overrides: tuple[str, ...],
    nodes: str,
    cluster: str,
    weak: bool,
    steps: int,
    warmup: int,
    output: Path | None,
    dry_run: bool,
) -> None:
    """Scale-up experiment: throughput and efficiency of a training stage at several numbers of nodes."""
    from launchers.scale import scale

    numbers = [int(text) if text.strip().isdecimal() else 0 for text in nodes.split(",")]
    if min(numbers) < 1:
        raise click.BadParameter(f"'{nodes}': expected numbers of nodes, as 1,2,4,8", param_hint="--nodes")
    scaling = "weak" if weak else "strong"
    scale(stage_file, overrides, numbers, cluster, scaling, steps, warmup, output, dry_run, click.echo)
