"""Which hypotheses of an image become winners and losers (paper section 4.3): pure functions of a ranking."""

from __future__ import annotations

import numpy as np


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
