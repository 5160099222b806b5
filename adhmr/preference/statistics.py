"""What the pairs of a preference folder are like, in a few numbers: statistics.json beside its index. More, from the
same table of pairs, is in inspect.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from adhmr.data.shard_reader import ShardReader
from adhmr.preference.pair_table import SIDES, read_pairs

REQUEST_NAME = "generation.json"  # what the shards of a folder depend on
STATISTICS_NAME = "statistics.json"


def pair_statistics(folder: Path, pause: Callable[[], None] = lambda: None) -> dict[str, float]:
    """Counts and means over all pairs of a preference folder; errors in millimetres where they are known.

    `pause` is called now and then.
    """
    reader = ShardReader(folder)
    return {**image_counts(folder, pairs := read_pairs(reader, pause)), "pairs": len(pairs), **pair_means(pairs)}


def image_counts(folder: Path, pairs: np.ndarray) -> dict[str, int]:
    """Images that have a pair; and how many were left without one, where generation.json says how many were asked."""
    images = len(np.unique(pairs["row"]))
    request = folder / REQUEST_NAME
    if not request.is_file():
        return {"images": images}
    return {"images": images, "left_out": json.loads(request.read_text())["images"] - images}


def pair_means(pairs: np.ndarray) -> dict[str, float]:
    """Means over pairs (P,) TABLE_DTYPE; none when there are no pairs."""
    if not len(pairs):
        return {}
    figures = {}
    for side in SIDES:
        figures[f"{side}_value"] = float(pairs[f"{side}_value"].mean())
        if not np.isnan(pairs[f"{side}_error"]).any():
            figures[f"{side}_pve_mm"] = float(1000 * pairs[f"{side}_error"].mean())
    if "winner_pve_mm" in figures:
        figures["right_order"] = float(right_order(pairs).mean())
    figures["zero_noise_winners"] = float((pairs["winner_index"] == 0).mean())
    figures["distance_px"] = float(pairs["distance"].mean())
    return figures


def right_order(pairs: np.ndarray) -> np.ndarray:
    """(P,) whether the winner has the smaller error."""
    return pairs["winner_error"] < pairs["loser_error"]
