"""The curves of a training run: every logged figure over the steps, from its metrics.jsonl."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from adhmr.errors import AdhmrError
from adhmr.evaluation.sections import Picture
from adhmr.visualization.plots import plt, png

LEFT_OUT = {"step", "elapsed", "lr", "skipped_steps"}
COLUMNS = 5


def training_curves(run: Path) -> Picture:
    """Raises AdhmrError for a folder that no training wrote."""
    if not (run / "metrics.jsonl").exists():
        raise AdhmrError(f"{run} has no metrics.jsonl: runs: takes the folders of training stages")
    return Picture(f"training-{run.name}", run.name, partial(_draw, run / "metrics.jsonl"))


def _draw(path: Path) -> bytes:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    names = [n for n in lines[-1] if n not in LEFT_OUT and not n.startswith("evaluation/")]
    rows = -(-len(names) // COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(2.6 * COLUMNS, 1.7 * rows), squeeze=False)
    for axis, name in zip(axes.flat, names):
        points = [(line["step"], line[name]) for line in lines if name in line]
        axis.plot(*zip(*points), linewidth=1)
        axis.set_title(name, fontsize=8)
        axis.tick_params(labelsize=6)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    figure.tight_layout()
    return png(figure, dpi=80)
