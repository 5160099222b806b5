"""Figures of what cleaning did, and its tables. Pictures are in pictures.py, figures of known mistakes in
known_mistakes.py."""

from typing import Any

import numpy as np

BINS = 10  # of the histogram, over scores from 0 to 1


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
    tables = [_aligned([names, *rows]), _aligned([("labels by score", *edges), *histogram])]
    tables += [_table_of_truth(one["set"], one["truth"]) for one in figures if "truth" in one]
    return "\n".join(tables)


def _table_of_truth(name: str, truth: dict[str, Any]) -> str:
    """A line a kind of mistake: how many labels have it and how many of these were dropped."""
    rows = [(f"{name}: labels that are", "labels", "dropped", "share dropped", "share of the dropped")]
    kinds = truth["kinds"] | {"any but mild": truth["any mistake"]}
    for kind, one in kinds.items():
        shares = (_percent(one[part]) for part in ("recall", "precision"))
        rows.append((kind, f"{one['labels']:,}", f"{one['dropped']:,}", *shares))
    parts = {"all": "all", "kept": "kept", "dropped": "dropped", "kept had the worst been dropped": "kept_at_best"}
    errors = ", ".join(f"{label} {_number(truth[f'pve_{part}'], 1)}" for label, part in parts.items())
    lines = [
        f"PVE of the labels, mm: {errors}",
        f"raw score against -PVE: PLCC {_number(truth['plcc'], 3)}, SRCC {_number(truth['srcc'], 3)}; "
        f"a gross failure scores below another label: {_percent(truth['gross_auc'])}",
    ]
    return _aligned(rows) + "".join(f"{line}\n" for line in lines)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _aligned(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = (
        "  ".join(f"{cell:<{w}}" if not n else f"{cell:>{w}}" for n, (cell, w) in enumerate(zip(row, widths)))
        for row in rows
    )
    return "".join(line.rstrip() + "\n" for line in lines)
