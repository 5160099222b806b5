"""Pictures of a cleaning, to look at before training: the histogram with its limit, sheets of kept and of dropped
labels, and what every limit would do to known mistakes. Their figures are made in report.py and known_mistakes.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from adhmr.atomic_file import write_atomically
from adhmr.cleaning.known_mistakes import Truth
from adhmr.data.randomness import RandomKey
from adhmr.data.shard_reader import ShardReader
from adhmr.data.synthetic.labels import GROSS, KIND_NAMES
from adhmr.data.transforms import PersonCrop
from adhmr.visualization.drawing import draw_skeleton, draw_text, grid
from adhmr.visualization.picture_file import write_picture
from adhmr.visualization.plots import plt, png

COLUMNS = 8
CELL = 160  # pixels across a picture of a sheet at least: room for its caption
BARS = 40
DPI = 110
KEPT_COLOUR, DROPPED_COLOUR = "tab:blue", "tab:red"


def histogram(
    name: str, raw: np.ndarray, score: np.ndarray, kept: np.ndarray, limits: tuple[float, float], path: Path
) -> None:
    """Raw scores, and scores in [0, 1], of kept and dropped labels; limits: from which raw score and from which score
    labels are kept, not finite where every label or none is."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    known = ~np.isnan(raw)
    for panel, values, limit, label in (
        (panels[0], raw, limits[0], "raw score"),
        (panels[1], score, limits[1], "score s = sigmoid(5 raw)"),
    ):
        edges = np.linspace(0, 1, BARS + 1) if values is score else np.histogram_bin_edges(raw[known], BARS)
        groups = [values[known & kept], values[known & ~kept]]
        colours, names = [KEPT_COLOUR, DROPPED_COLOUR], [f"{len(groups[0]):,} kept", f"{len(groups[1]):,} dropped"]
        panel.hist(groups, edges, stacked=True, color=colours, label=names)
        if np.isfinite(limit):
            panel.axvline(limit, color="black", linestyle="--", label=f"limit {limit:.3f}")
        panel.set(xlabel=label, ylabel="labels")
        panel.legend(fontsize=8)
    figure.suptitle(name)
    write_atomically(path, png(figure, DPI))


def write_sheets(
    reader: ShardReader,
    crop: PersonCrop,
    raw: np.ndarray,
    kept: np.ndarray,
    truth: Truth | None,
    count: int,
    folder: Path,
) -> None:
    """kept.jpg (best, spread evenly, just above the limit) and dropped.jpg (just below it, spread evenly, worst), up to
    `count` labels each, as the scorer saw them, with raw score and key, or with the known PVE and kind of mistake;
    dropped.jpg only where some were."""
    order = np.argsort(-raw, kind="stable")[: int((~np.isnan(raw)).sum())]  # by raw scores, which never saturate
    for name, rows in (("kept", order[kept[order]]), ("dropped", order[~kept[order]])):
        if len(rows):
            _sheet(reader, crop, raw, truth, _ends_and_middle(rows, count), folder / f"{name}.jpg")


def _ends_and_middle(rows: np.ndarray, count: int) -> list[np.ndarray]:
    """The first, some between, and the last of ordered rows, none twice."""
    ends = min(count, -(-len(rows) // 3))
    middle = rows[ends : len(rows) - ends]
    chosen = np.unique(np.linspace(0, len(middle) - 1, min(count, len(middle))).astype(int))
    return [part for part in (rows[:ends], middle[chosen], rows[max(ends, len(rows) - ends) :]) if len(part)]


def _sheet(
    reader: ShardReader,
    crop: PersonCrop,
    raw: np.ndarray,
    truth: Truth | None,
    parts: list[np.ndarray],
    path: Path,
) -> None:
    cells: list[np.ndarray] = []
    for rows in parts:
        for row in map(int, rows):
            sample = reader.read(row)
            item = crop(sample, RandomKey(0, row))
            image = np.ascontiguousarray(item["image"].transpose(1, 2, 0))
            larger = -(-CELL // image.shape[1])
            image = image.repeat(larger, 0).repeat(larger, 1)
            image = draw_skeleton(image, item["uvd"][:, :2] * larger, sample.record["joints_conf"])
            known = sample.key if truth is None else f"{truth.errors[row] * 1000:.0f} mm {KIND_NAMES[truth.kinds[row]]}"
            cells.append(draw_text(image, f"{raw[row]:.2f} {known}"))
        cells += [np.zeros_like(cells[0])] * (-len(cells) % COLUMNS)  # the next part begins a line
    write_picture(path, grid(cells, COLUMNS))


def mistakes_plot(
    name: str, raw: np.ndarray, kept: np.ndarray, truth: Truth, curves: dict[str, np.ndarray], path: Path
) -> None:
    """Precision and recall over both limits, and every label's score against its true error."""
    figure, panels = plt.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    for panel, limit, label in (
        (panels[0], "percentile", "dropped, lowest raw scores (%)"),
        (panels[1], "threshold", "threshold on s"),
    ):
        x = curves[f"{limit}_limit"]
        for kind, kind_name in enumerate(KIND_NAMES):
            width = 2.2 if kind == GROSS else 1.0
            panel.plot(x, curves[f"{limit}_recall_of_kinds"][kind], linewidth=width, label=f"{kind_name}: dropped")
        panel.plot(x, curves[f"{limit}_precision"], color="black", label="precision, gross failures")
        panel.plot(x, curves[f"{limit}_kept"], color="grey", linestyle=":", label="labels kept")
        panel.set(xlabel=label, ylabel="share", ylim=(0, 1.02))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    for kind, kind_name in enumerate(KIND_NAMES):
        chosen = (truth.kinds == kind) & ~np.isnan(raw)
        panels[2].scatter(raw[chosen], truth.errors[chosen] * 1000, s=5, alpha=0.6, label=kind_name)
    if not kept.all():
        panels[2].axvline(np.nanmin(raw[kept]), color="black", linestyle="--", label="limit")
    panels[2].set(xlabel="raw score", ylabel="PVE of the label (mm)", yscale="log")
    panels[2].legend(fontsize=7)
    figure.suptitle(name)
    write_atomically(path, png(figure, DPI))
