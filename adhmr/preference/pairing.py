"""Which hypotheses of an image become winners and losers (paper section 4.3), as indices and as records. Pure functions
of a ranking; how images are ranked is in rankings.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from adhmr.errors import AdhmrError
from adhmr.preference.records import LABEL_INDEX, PAIR_DTYPE


def make_pairs(value: np.ndarray, pairs: int, margin: float, rng: np.random.Generator) -> np.ndarray:
    """Pair the best hypotheses with the worst: `pairs` winners from the top `pairs`, as many losers from the bottom
    `pairs`, in random order.

    Args:
        value: (M,) the larger the better (a score, or a negative error).
        pairs: K. With fewer than 2K hypotheses K becomes M // 2, so no hypothesis is on both sides.
        margin: a pair whose values differ by less is dropped.
        rng: decides which winner meets which loser.

    Returns:
        (P, 2) indices (winner, loser), P <= K.
    """
    if not np.isfinite(value).all():
        raise ValueError(f"make_pairs: ranking values must be finite, got {value}")
    count = min(pairs, len(value) // 2)
    order = np.argsort(-value, kind="stable")
    winners, losers = rng.permutation(order[:count]), rng.permutation(order[len(order) - count :])
    keep = value[winners] - value[losers] >= margin
    return np.stack([winners[keep], losers[keep]], axis=1)


def pair_records(
    pairs: np.ndarray, uvd: np.ndarray, twists: np.ndarray, value: np.ndarray, errors: np.ndarray
) -> np.ndarray:
    """(P,) PAIR_DTYPE of pairs (P, 2) of one image's hypotheses: uvd (M, 29, 3), twists (M, 23, 2), value and errors
    (M,), NaN where they are not known."""
    records = np.zeros(len(pairs), PAIR_DTYPE)
    for column, side in enumerate(("winner", "loser")):
        index = pairs[:, column]
        records[f"{side}_uvd"], records[f"{side}_twists"] = uvd[index], twists[index]
        records[f"{side}_value"], records[f"{side}_index"] = value[index], index
        records[f"{side}_error"] = errors[index]
    return records


def truth_record(label: dict[str, Any], uvd: np.ndarray, twists: np.ndarray, error: float, margin: float) -> np.ndarray:
    """The released code's pair of a studio image: its label, an item of PersonCrop, wins over the zero-noise hypothesis
    uvd (29, 3), twists (23, 2) of this error in metres; values are negative errors.

    Returns (1,) PAIR_DTYPE, or none when the error is below the margin or some joint or twist of the label is unknown.
    Raises AdhmrError for a label without any twists: then its whole set has none.
    """
    if not label["twist_weight"].any():
        place = f"{label['dataset']}, sample {label['key']}"
        raise AdhmrError(f"{place}: its label has no twists; truth makes a winner of it: use another ranking")
    records = np.zeros(1, PAIR_DTYPE)
    records["winner_uvd"], records["winner_twists"] = label["uvd"], label["twists"]
    records["loser_uvd"], records["loser_twists"] = uvd, twists
    records["winner_index"] = LABEL_INDEX
    records["loser_value"], records["loser_error"] = -error, error
    whole = (label["uvd_weight"] > 0).all() and (label["twist_weight"] > 0).all()
    return records if whole and error >= margin else records[:0]
