"""Figures of a preference folder to judge its pairs by: `adhmr prefs inspect`. Their text is laid out in
inspect_text.py; the pictures are in pair_sheet.py."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from adhmr.data.shard_reader import ShardReader
from adhmr.errors import AdhmrError
from adhmr.preference.distances import distance_matrix
from adhmr.preference.pair_table import SIDES, read_pairs
from adhmr.preference.pairing import SCORE_SLOPE, PairRule, why_no_pair
from adhmr.preference.statistics import image_counts, pair_means, right_order

SETTINGS = (  # of the sample's provenance
    *("ranking", "dataset", "base", "scorer", "seed", "hypotheses"),
    *("pairs", "strategy", "margin", "confidence", "distinct"),
)
QUANTILES = (5, 25, 50, 75, 95)  # per cent
BINS = 10  # of the histogram of differences, from the smallest to the largest


def open_preferences(folder: str | Path) -> ShardReader:
    """Raises AdhmrError for a folder that is no data set, or one without pairs."""
    reader = ShardReader(folder)
    if not len(reader):
        raise AdhmrError(f"{folder}: holds no image; its guards (margin, confidence, distinct) may leave none")
    if "pairs.npy" not in reader.read_members(0):
        raise AdhmrError(f"{folder}: a data set without pairs; expected a folder that stage generate has made")
    return reader


def inspect_preferences(folder: str | Path) -> dict[str, Any]:
    """What the pairs of a preference folder are like, fit for JSON; every pair is read.

    Raises AdhmrError for a folder that holds no pairs, and CorruptSampleError.
    """
    reader = open_preferences(folder)
    provenance = reader.read(0).provenance
    settings = {key: provenance[key] for key in SETTINGS if key in provenance}
    pairs = read_pairs(reader)
    figures = {
        "folder": str(folder),
        "settings": settings,
        **image_counts(Path(folder), pairs),
        "left_out_by": left_out_by(reader, pairs),
        "pairs": len(pairs),
        **pair_means(pairs),
    }
    if not len(pairs):
        return figures
    columns = _columns(pairs, settings.get("ranking"))
    figures["pairs_an_image"] = np.bincount(np.bincount(pairs["row"])).tolist()[1:]  # images with 1, 2, ... pairs
    figures["quantiles"] = {
        name: dict(zip(map(str, QUANTILES), np.percentile(column, QUANTILES).tolist(), strict=True))
        for name, column in columns.items()
    }
    figures["zero_noise_losers"] = float((pairs["loser_index"] == 0).mean())
    figures["difference"] = _by_difference(columns["difference"], pairs)
    return figures


def _columns(pairs: np.ndarray, ranking: str | None) -> dict[str, np.ndarray]:
    """What quantiles are shown of, (P,) each."""
    columns = {f"{side}_value": pairs[f"{side}_value"] for side in SIDES}
    columns["difference"] = pairs["winner_value"] - pairs["loser_value"]
    if ranking == "scorer":
        columns |= {f"{side}_score": expit(SCORE_SLOPE * pairs[f"{side}_value"]) for side in SIDES}
    for side in SIDES:
        if not np.isnan(pairs[f"{side}_error"]).any():
            columns[f"{side}_pve_mm"] = 1000 * pairs[f"{side}_error"]
    columns["distance_px"] = pairs["distance"]
    return columns


def _by_difference(difference: np.ndarray, pairs: np.ndarray) -> dict[str, list[float]]:
    """Pairs in each bin of the difference of values; and, where errors are known, the share of them in right order:
    when it rises with the difference, a margin makes better pairs."""
    counts, edges = np.histogram(difference, BINS)
    found = {"edges": edges.tolist(), "pairs": counts.tolist()}
    if not np.isnan(pairs["winner_error"] + pairs["loser_error"]).any():
        right, _ = np.histogram(difference[right_order(pairs)], edges)
        found["right_order"] = (right / np.maximum(counts, 1)).tolist()
    return found


def left_out_by(reader: ShardReader, pairs: np.ndarray) -> dict[str, int]:
    """Images without a pair that the folder holds all the same (`keep: all`), by the guard that left them out."""
    found: Counter[str] = Counter()
    for row in sorted(set(range(len(reader))) - set(pairs["row"].tolist())):
        sample = reader.read(row)
        ranking = sample.provenance["ranking"]
        if "hypotheses.npy" not in sample.extras:
            continue
        hypotheses, rule = sample.extras["hypotheses.npy"], PairRule.of(sample.provenance, ranking)
        if ranking == "truth":
            found["margin" if hypotheses["error"][0] < rule.margin else "label"] += 1
            continue
        distance = distance_matrix(hypotheses["uvd"], sample.image.shape[0]) if rule.distinct else None
        found[why_no_pair(hypotheses["value"], rule, distance)] += 1
    return dict(found)
