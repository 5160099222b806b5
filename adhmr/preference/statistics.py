"""What the pairs of a preference folder are like, in numbers: statistics.json beside its index."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

from adhmr.data.shard_reader import ShardReader

STATISTICS_NAME = "statistics.json"
ROWS_BETWEEN_PAUSES = 1000
SIDES = ("winner", "loser")
COLUMNS = [f"{side}_{kind}" for side in SIDES for kind in ("value", "error")]


def pair_statistics(folder: Path, pause: Callable[[], None] = lambda: None) -> dict[str, float]:
    """Counts and means over all pairs of a preference folder; errors in millimetres where they are known.

    Keeps 16 bytes a pair in memory. `pause` is called now and then.
    """
    reader = ShardReader(folder)
    columns: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}
    for row in range(len(reader)):
        pairs = np.load(io.BytesIO(reader.read_members(row)["pairs.npy"]), allow_pickle=False)
        for name, parts in columns.items():
            parts.append(pairs[name].copy())  # not a view of the joints too
        if row % ROWS_BETWEEN_PAUSES == 0:
            pause()
    values = {name: np.concatenate(parts) for name, parts in columns.items()}
    figures = {"images": len(reader), "pairs": len(values["winner_value"])}
    for side in SIDES:
        figures[f"{side}_value"] = float(values[f"{side}_value"].mean())
        if not np.isnan(values[f"{side}_error"]).any():
            figures[f"{side}_pve_mm"] = float(1000 * values[f"{side}_error"].mean())
    if "winner_pve_mm" in figures:
        figures["right_order"] = float((values["winner_error"] < values["loser_error"]).mean())
    return figures
