"""Commands about weight files: the group `adhmr weights`, and `adhmr import-official`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("import-official")
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--kind",
    required=True,
    help="models: hyponet, scorenet, hmr-scorer; initial values of an encoder: pose-hrnet, vitpose, smpler-x, timm",
)
@click.option("--weights", type=click.Choice(["raw", "ema"]), help="default: the average (ema) where the file has one")
@click.option("--backbone", help="timm's name of the network in FILE; for --kind timm")
@click.option("--output", type=click.Path(path_type=Path), help="default: beside FILE, ending in .safetensors")
def import_official_command(
    source: Path, kind: str, weights: str | None, backbone: str | None, output: Path | None
) -> None:
    """Read an official checkpoint into a weight file, and say what was taken, left out or missing."""
    from adhmr.models.official import import_official

    for line in import_official(source, kind, weights, output, backbone).lines():
        click.echo(line)


@click.group()
def weights() -> None:
    """Weight files."""


@weights.command("export-encoder")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
def export_encoder(source: Path, target: Path) -> None:
    """Write the image encoder of a base model's weights (SOURCE) as a half-precision file (TARGET)."""
    from adhmr.models.weights import load_model, save_encoder

    save_encoder(target, load_model(source, "base").encoder)
    click.echo(f"{target}: {target.stat().st_size / 1e6:.1f} MB")
