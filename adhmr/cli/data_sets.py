"""The group `adhmr data`: make data sets, check them, filter them, look at them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click


@click.group()
def data() -> None:
    """Data sets: make, look at."""


@data.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--set", "name", required=True, help="synth-studio, synth-game, synth-wild or synth-bench")
@click.option("--split", default="train", show_default=True, help="train; val or test for synth-bench")
@click.option("--count", default=1000, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--processes", default=2, show_default=True)
@click.option("--image-size", default=192, show_default=True)
def synth(output: Path, name: str, split: str, count: int, seed: int, processes: int, image_size: int) -> None:
    """Render one embedded data set into OUTPUT. Same seed, same bytes; a rerun continues."""
    from adhmr.data.synthetic.build import synthesise

    synthesise(name, output, count, seed=seed, split=split, processes=processes, image_size=image_size)


@data.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--source", required=True, help="what the samples were made from")
@click.option("--split", required=True, help="train, val, test or the source's own name")
@click.option("--licence", required=True, help="one line on how the data may be used")
@click.option("--processes", default=2, show_default=True, type=click.IntRange(1))
def index(folder: Path, source: str, split: str, licence: str, processes: int) -> None:
    """Make the index of a folder of shards anew, from the shards themselves."""
    from adhmr.data.index_build import rebuild_index

    click.echo(rebuild_index(folder, source=source, split=split, licence=licence, processes=processes))


@data.command()
@click.argument("folder")
@click.option("--quick", is_flag=True, help="hash no shard, read one sample of each")
@click.option("--processes", default=2, show_default=True, type=click.IntRange(1))
@click.option("--list", "listed", type=click.Path(path_type=Path), help="write the keys of bad samples there")
def verify(folder: str, quick: bool, processes: int, listed: Path | None) -> None:
    """Check files, checksums, images and labels of a data set (a folder or URL); exit code 1 when something is wrong.

    The file of --list can be a filter's `exclude`.
    """
    from adhmr.data.verify import report, verify

    problems = verify(folder, quick, processes)
    click.echo(report(folder, problems, listed))
    if problems:
        sys.exit(1)


@data.command("filter")
@click.argument("folder")
@click.option("--min-box", type=float, help="longer side of the box of the known body joints, pixels")
@click.option("--min-joints", type=int, help="body joints that are known and inside the image, 1 to 24")
@click.option("--min-score", type=float, help="score of the cleaning, 0 to 1; with --scores")
@click.option("--scores", help="scores.npz of a clean stage over this data set")
@click.option("--exclude", help="a text file of keys, one a line, that are left out")
@click.option("--processes", default=2, show_default=True, type=click.IntRange(1))
def filter_command(folder: str, processes: int, **predicates: Any) -> None:
    """Build the table of a filter, for data sets that are opened with the same `filter` in a configuration."""
    from adhmr.config.data import FilterConfig
    from adhmr.config.loading import check_values
    from adhmr.data.filters import build_filter

    given = {name: value for name, value in predicates.items() if value is not None}
    index = build_filter(folder, check_values(given, FilterConfig, "adhmr data filter"), processes)
    click.echo(f"{folder}: {index.num_samples} samples are left, {index.filter_table.file.name}")


@data.command()
@click.argument("folder")
@click.option("--count", default=32, show_default=True, help="samples on the contact sheet")
@click.option(
    "--sheet",
    type=click.Path(path_type=Path),
    help="where to write it (default: contact_sheet.jpg in FOLDER, for a URL in the current folder)",
)
def inspect(folder: str, count: int, sheet: Path | None) -> None:
    """Print what a shard folder holds and draw a contact sheet with the labels over the images."""
    from adhmr.data.contact_sheet import contact_sheet, describe

    click.echo(describe(folder))
    sheet = sheet or Path("" if "://" in folder else folder) / "contact_sheet.jpg"
    contact_sheet(folder, count, sheet)
    click.echo(f"contact sheet: {sheet}")


@data.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--step", required=True, type=click.IntRange(0), help="which step; the first is 0")
@click.option("--limit", type=click.IntRange(1), help="samples on the sheet (default: the whole global batch)")
@click.option("--output", type=click.Path(path_type=Path), help="folder to write to (default: RUN/replay)")
def replay(run_folder: Path, step: int, limit: int | None, output: Path | None) -> None:
    """Write the global batch of a step of a training run again: its samples as a list, its crops with labels drawn."""
    from adhmr.training.replay import replay

    for line in replay(run_folder, step, output, limit):
        click.echo(line)
