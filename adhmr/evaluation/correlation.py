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


def ranked_pairs(scores: np.ndarray, errors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(N,) share of the pairs in the right order, and by how much the losers' mean error is above the winners', of the
    `count` highest of scores (N, M) against the `count` lowest: what generation's pairs are on average, whoever meets
    whom. errors (N, M)."""
    order = np.argsort(-scores, axis=1, kind="stable")
    winners, losers = (np.take_along_axis(errors, part, 1) for part in (order[:, :count], order[:, -count:]))
    right = (winners[:, :, None] < losers[:, None, :]).mean((1, 2))
    return right, losers.mean(1) - winners.mean(1)


def resampled_correlations(scores: np.ndarray, errors: np.ndarray, draws: int = 100) -> np.ndarray:
    """(draws, metrics, 2) PLCC and SRCC, averaged over seeds, of sets of images that are drawn with replacement from
    the N images of scores (seeds, N, D) and errors (N, D, metrics). The same N always gives the same draws, so that
    methods are compared on the same images."""
    rng = np.random.default_rng(0)
    images = errors.shape[0]
    found = np.empty((draws, errors.shape[-1], 2))
    for draw in found:
        chosen = rng.integers(0, images, images)
        error = -errors[chosen].reshape(-1, errors.shape[-1])
        score = scores[:, chosen].reshape(len(scores), -1)
        for kind, of in enumerate((lambda values: values, lambda values: rankdata(values, axis=0))):
            draw[:, kind] = _correlation(of(score.T), of(error)).mean(0)
    return found


def _correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(a, b) Pearson correlation of the columns of first (n, a) and second (n, b)."""
    first, second = (part - part.mean(0) for part in (first, second))
    return (first.T @ second) / np.outer(np.linalg.norm(first, axis=0), np.linalg.norm(second, axis=0))
