"""Commands about bodies: `adhmr infer` for the people in pictures, `adhmr body` for a body file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("body_file", type=click.Path(path_type=Path))
def body(body_file: Path) -> None:
    """Check a body file in SMPL's or SMPL-X's format (.npz or .pkl) and say what it holds."""
    from adhmr.body.describe import describe

    click.echo(describe(body_file))


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--checkpoint", required=True, type=click.Path(path_type=Path), help="Weights of a base model.")
@click.option("--scorer", type=click.Path(path_type=Path), help="Weights of a scorer: the best-scored come first.")
@click.option("--boxes", "boxes_file", type=click.Path(path_type=Path), help="Boxes of the people, .json or .csv.")
@click.option("--box", "boxes", multiple=True, metavar="X0,Y0,X1,Y1", help="A person of the one image; repeatable.")
@click.option(
    "--padding", type=click.FloatRange(1, 4), help="Of the crops (default: what the checkpoint says it learnt with)."
)
@click.option("--focal", type=click.FloatRange(1), help="Focal length in pixels (default: the image's diagonal).")
@click.option("--hypotheses", default=10, show_default=True, type=click.IntRange(1), help="Hypotheses a person.")
@click.option("--seed", default=0, show_default=True, help="Of the noise, together with the image's name.")
@click.option(
    "--ik", default="adaptive", show_default=True, type=click.Choice(["adaptive", "naive"]), help="Inverse kinematics."
)
@click.option(
    "--output", default="inference", show_default=True, type=click.Path(path_type=Path), help="Output folder."
)
@click.option(
    "--meshes", default="obj", show_default=True, type=click.Choice(["obj", "glb", "none"]), help="Mesh files."
)
@click.option("--save-hypotheses", default=1, show_default=True, type=click.IntRange(1), help="Meshes a person.")
@click.option("--body", type=click.Path(path_type=Path), help="Body file in SMPL's format (default: the open body).")
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(["fp32", "bf16"]))
@click.option("--batch", default=8, show_default=True, type=click.IntRange(1), help="People at once.")
@click.option("--overwrite", is_flag=True, help="Replace outputs that were made with other settings.")
def infer(
    images: tuple[Path, ...],
    boxes_file: Path | None,
    boxes: tuple[str, ...],
    padding: float | None,
    focal: float | None,
    **settings: Any,
) -> None:
    """Bodies of the people in IMAGES (files or folders): pictures, meshes and parameters."""
    from adhmr.inference.infer import InferenceSettings, infer

    infer(images, InferenceSettings(**settings), boxes_file=boxes_file, boxes=boxes, padding=padding, focal=focal)
