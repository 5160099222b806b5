"""The pairs of a preference folder as a table: what figures are made of, without the hypotheses themselves."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np

from adhmr.data.schema import decode_record
from adhmr.data.shard_reader import ShardReader
from adhmr.preference.distances import joint_distance
from adhmr.preference.records import PAIR_DTYPE

SIDES = ("winner", "loser")
COPIED = [f"{side}_{kind}" for side in SIDES for kind in ("value", "error", "index")]
TABLE_DTYPE = np.dtype(
    [
        *((name, PAIR_DTYPE[name]) for name in COPIED),
        ("row", "<i4"),  # of the image in the folder
        ("distance", "<f4"),  # between winner and loser, pixels; see distances.py
    ]
)
ROWS_BETWEEN_PAUSES = 1000


def read_pairs(reader: ShardReader, pause: Callable[[], None] = lambda: None) -> np.ndarray:
    """(P,) TABLE_DTYPE of all pairs of a preference folder, 28 bytes a pair. `pause` is called now and then."""
    parts = [np.zeros(0, TABLE_DTYPE)]
    for row in range(len(reader)):
        members = reader.read_members(row)
        pairs = np.load(io.BytesIO(members["pairs.npy"]), allow_pickle=False)
        crop_size = int(decode_record(members["npy"])["image_size"][0])
        part = np.zeros(len(pairs), TABLE_DTYPE)
        for name in COPIED:
            part[name] = pairs[name]
        part["row"], part["distance"] = row, joint_distance(pairs["winner_uvd"], pairs["loser_uvd"], crop_size)
        parts.append(part)
        if row % ROWS_BETWEEN_PAUSES == 0:
            pause()
    return np.concatenate(parts)
