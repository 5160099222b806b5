"""The change of an error against a baseline, paired over images: what every table that compares methods shows. Which
errors are compared is said by the tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Difference:
    """Change of an error against the baseline: mean over images and seeds, its paired standard error over images, and
    the spread (standard deviation) of the mean over seeds; millimetres."""

    mean: float
    standard_error: float
    seed_spread: float
    seeds: int


def paired_difference(ours: np.ndarray, baseline: np.ndarray) -> Difference:
    """ours and baseline (seeds, N), of the same N images: seeds are averaged within an image first, so that they do not
    count as more images."""
    change = ours - baseline.mean(0)
    images = change.mean(0)
    seeds = change.mean(1)
    spread = float(seeds.std(ddof=1)) if len(seeds) > 1 else 0.0
    return Difference(float(images.mean()), float(images.std(ddof=1) / len(images) ** 0.5), spread, len(seeds))


def mean_and_spread(values: np.ndarray) -> str:
    """The cell of a table for (seeds, N) millimetres: the mean, and its standard deviation over several seeds."""
    seeds = values.mean(1)
    return f"{seeds.mean():.1f}" + (f" ± {seeds.std(ddof=1):.1f}" if len(seeds) > 1 else "")


def error_record(metric: str, errors: np.ndarray, change: Difference) -> dict[str, float | None]:
    """One metric's entries of a report's record: the mean of errors (seeds, N), its standard deviation over seeds (None
    of a single seed), the change against the baseline and that change's paired standard error; millimetres."""
    return {
        metric: float(errors.mean()),
        f"{metric}_seed_spread": change.seed_spread if change.seeds > 1 else None,
        f"{metric}_change": change.mean,
        f"{metric}_change_se": change.standard_error,
    }
