"""`adhmr data convert` and `adhmr data sources`: what the owners of data sets distribute becomes shards."""

from __future__ import annotations

from pathlib import Path

import click

GENDERS = ("male", "female", "neutral")


@click.command()
@click.argument("name")
@click.option("--root", required=True, type=click.Path(path_type=Path), help="folder of the download")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="folder of the data set to be made")
@click.option("--split", help="the owners' split (default: the only one, or train)")
@click.option("--stride", default=1, show_default=True, type=click.IntRange(1), help="every so many-th frame")
@click.option("--file", type=click.Path(path_type=Path), help="annotation file in place of the usual one")
@click.option(
    "--body", type=click.Path(path_type=Path), help="body that the labels are made for (default: the open one)"
)
@click.option("--smpl", multiple=True, metavar="GENDER=FILE", help="SMPL of male, female or neutral; repeatable")
@click.option("--smplx", multiple=True, metavar="GENDER=FILE", help="SMPL-X of male, female or neutral; repeatable")
@click.option("--held-out", type=click.FloatRange(0, 1, min_open=True, max_open=True), help="share of subjects for val")
@click.option("--part", type=click.Choice(["train", "val"]), help="with --held-out: which part to convert")
@click.option(
    "--side", default=384, show_default=True, type=click.IntRange(64), help="pixels of a stored crop, at most"
)
@click.option(
    "--context", default=2.0, show_default=True, type=click.FloatRange(1), help="crop's side over the person's"
)
@click.option("--processes", default=2, show_default=True, type=click.IntRange(1))
@click.option("--limit", type=click.IntRange(1), help="only the first so many people, to try it out")
def convert(
    name: str,
    root: Path,
    out: Path,
    split: str | None,
    stride: int,
    file: Path | None,
    body: Path | None,
    smpl: tuple[str, ...],
    smplx: tuple[str, ...],
    held_out: float | None,
    part: str | None,
    side: int,
    context: float,
    processes: int,
    limit: int | None,
) -> None:
    """Turn a release of the data set NAME into shards. A rerun goes on. `adhmr data sources` lists the names."""
    from adhmr.data.sources.bodies import BodyFiles
    from adhmr.data.sources.context_crop import ContextCrop
    from adhmr.data.sources.convert import convert
    from adhmr.data.sources.held_out import HeldOut
    from adhmr.data.sources.registry import usual_split
    from adhmr.data.sources.source import Release

    if (held_out is None) != (part is None):
        raise click.UsageError("--held-out SHARE and --part train|val go together")
    release = Release(root, usual_split(name) if split is None else split, stride, file)
    bodies = BodyFiles(body, _by_gender(smpl, "--smpl"), _by_gender(smplx, "--smplx"))
    held = None if held_out is None else HeldOut(held_out, part)
    for line in convert(name, release, out, bodies, ContextCrop(side, context), processes, limit, held):
        click.echo(line)


@click.command()
def sources() -> None:
    """List the data sets that `adhmr data convert` knows, with their splits."""
    from adhmr.data.sources.registry import SOURCES, source_class

    rows = [(name, ", ".join(source_class(name).splits), source_class(name).__doc__) for name in SOURCES]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, splits, text in rows:
        sentence = " ".join(text.split()).split(". ")[0].rstrip(".")
        click.echo(f"{name:<{widths[0]}}  {splits:<{widths[1]}}  {sentence}")


def _by_gender(given: tuple[str, ...], option: str) -> dict[str, Path]:
    files = {}
    for text in given:
        gender, _, path = text.partition("=")
        if gender not in GENDERS or not path:
            raise click.BadParameter(
                f"'{text}': expected GENDER=FILE, GENDER one of {', '.join(GENDERS)}", param_hint=option
            )
        files[gender] = Path(path)
    return files
