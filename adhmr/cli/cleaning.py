"""The group `adhmr clean`: what becomes of a cleaned data set outside of this package. Cleaning itself is a stage."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def clean() -> None:
    """Cleaned data sets: export them, filter the owners' files by them."""


@clean.command()
@click.argument("folder")
@click.option("--format", required=True, type=click.Choice(["human-data", "coco"]), help="what the labels become")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="folder of what is written")
@click.option("--images", is_flag=True, help="the stored crops too, labels in their pixels (else: the owners' images)")
@click.option("--smplx", type=click.Path(path_type=Path), help="for coco: fits of this SMPL-X body, not of SMPL")
@click.option("--body", type=click.Path(path_type=Path), help="with --smplx: the labels' body (default: the open one)")
def export(folder: str, format: str, out: Path, images: bool, smplx: Path | None, body: Path | None) -> None:
    """Write the labels of FOLDER, a data set in shards, as HumanData .npz or as COCO and NeuralAnnot JSON."""
    from adhmr.cleaning.export import export

    for line in export(folder, format, out, images, smplx, body):
        click.echo(line)


@clean.command("filter")
@click.argument("folder")
@click.option(
    "--original",
    "originals",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="annotation file that FOLDER was converted from, or its fits; repeatable",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="folder of what is written")
@click.option("--mask", is_flag=True, help="only what to keep: a boolean .npy by row, or a list of annotations")
def filter_command(folder: str, originals: tuple[Path, ...], out: Path, mask: bool) -> None:
    """Copies of the owners' files with only the people that FOLDER holds, all other fields as they were."""
    from adhmr.cleaning.filter_originals import filter_originals

    for line in filter_originals(folder, originals, out, mask):
        click.echo(line)
