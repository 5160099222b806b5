"""What `adhmr report` says of a finished report stage: its pictures, which the stage has left as files."""

from __future__ import annotations

import json
from pathlib import Path

from adhmr.evaluation.sections import Part, Picture

FIGURES = "figures.json"
TEXT = (
    "On each line an image, its label (green) and the zero-noise hypothesis of each model, over the image and from the "
    "side. The error is that of the body drawn, with the pelvises on each other."
)


def pictures_of(folder: Path) -> tuple[list[str], list[Part]]:
    listed = json.loads((folder / FIGURES).read_text())["pictures"]
    parts: list[Part] = [
        Picture(Path(one["file"]).stem, one["title"], (folder / one["file"]).read_bytes, "jpg") for one in listed
    ]
    return [TEXT], parts


def section(folder: Path, metric: str) -> tuple[list[str], list[Part]]:
    """Paragraphs and parts; the pictures show no table's metric."""
    return pictures_of(folder)
