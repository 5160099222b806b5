"""How well a score tells errors apart: correlation pooled over a set (paper section 5.1) and within an image, which is
what pairing needs. Scores are the larger the better, errors the smaller: values are those of (score, -error)."""

from __future__ import annotations

import numpy as np
from scipy.stats import pearsonr, rankdata, spearmanr


def pooled_correlation(scores: np.ndarray, errors: np.ndarray) -> dict[str, float]:
    """PLCC and SRCC of scores (N,) with negative errors (N,), all samples of a set in one pool."""
    return {
        "plcc": float(pearsonr(scores, -errors).statistic),
        "srcc": float(spearmanr(scores, -errors).statistic),
    }


def within_image_correlation(scores: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """(N,) Spearman correlation of each row of scores (N, M) with that row of negative errors (N, M); 0 where a row is
    constant."""
    ranks = rankdata(scores, axis=1), rankdata(-errors, axis=1)
    first, second = (rank - rank.mean(1, keepdims=True) for rank in ranks)
    spread = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    return np.divide((first * second).sum(1), spread, out=np.zeros(len(scores)), where=spread > 0)
