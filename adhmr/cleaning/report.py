"""What cleaning did, to look at: figures and a histogram of scores, and a sheet of the best and the worst labels."""

from pathlib import Path
from typing import Any

import numpy as np

from adhmr.data.randomness import RandomKey
from adhmr.data.shard_reader import ShardReader
from adhmr.data.transforms import PersonCrop
from adhmr.visualization.drawing import draw_skeleton, draw_text, grid
from adhmr.visualization.picture_file import write_picture

BINS = 10  # of the histogram, over scores from 0 to 1
COLUMNS = 8


def statistics(name: str, raw: np.ndarray, score: np.ndarray, kept: np.ndarray) -> dict[str, Any]:
    """Figures of one set; raw and score (rows,) with NaN where a sample could not be used, kept (rows,) bool."""
    known = ~np.isnan(raw)
    low, middle, high = np.percentile(raw[known], [5, 50, 95]).tolist()
    return {
        "set": name,
        "labels": len(score),
        "kept": int(kept.sum()),
        "dropped": int(len(score) - kept.sum()),
        "unusable": int((~known).sum()),  # of the dropped ones
        "raw_5%": low,
        "raw_50%": middle,
        "raw_95%": high,
        "histogram": np.histogram(score[known], BINS, (0.0, 1.0))[0].tolist(),
    }


def table(figures: list[dict[str, Any]]) -> str:
    """One line a set, and below it how many labels have a score in each tenth of [0, 1]."""
    names = ("set", "labels", "kept", "dropped", "unusable", "share kept", "raw 5 %", "50 %", "95 %")
    rows = [
        (
            *(f"{one[name]:,}" if name != "set" else one[name] for name in names[:5]),
            f"{one['kept'] / one['labels']:.1%}",
            *(f"{one[f'raw_{part}%']:.3f}" for part in (5, 50, 95)),
        )
        for one in figures
    ]
    edges = [f"{edge / BINS:.1f}-{(edge + 1) / BINS:.1f}" for edge in range(BINS)]
    histogram = [(one["set"], *(f"{count:,}" for count in one["histogram"])) for one in figures]
    return f"{_aligned([names, *rows])}\n{_aligned([('labels by score', *edges), *histogram])}"


def _aligned(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = (
        "  ".join(f"{cell:<{w}}" if not n else f"{cell:>{w}}" for n, (cell, w) in enumerate(zip(row, widths)))
        for row in rows
    )
    return "".join(line.rstrip() + "\n" for line in lines)


def score_sheet(
    reader: ShardReader, crop: PersonCrop, raw: np.ndarray, kept: np.ndarray, count: int, path: Path
) -> None:
    """A picture of the `count` best labels and, below them, the `count` worst, as the scorer saw them."""
    order = np.argsort(-raw, kind="stable")[: int((~np.isnan(raw)).sum())]  # by raw scores, which never saturate
    count = min(count, -(-len(order) // 2))
    rows = [*order[:count], *([-1] * (-count % COLUMNS)), *order[max(count, len(order) - count) :]]  # -1: an empty cell
    cells = []
    for row in rows:
        if row < 0:
            cells.append(np.zeros_like(cells[0]))
            continue
        sample = reader.read(int(row))
        item = crop(sample, RandomKey(0, int(row)))
        image = np.ascontiguousarray(item["image"].transpose(1, 2, 0))
        image = draw_skeleton(image, item["uvd"][:, :2], sample.record["joints_conf"])
        cells.append(draw_text(image, f"{raw[row]:.2f}{'' if kept[row] else ' out'} {sample.key}"))
    write_picture(path, grid(cells, min(COLUMNS, len(cells))))
