"""What a score is worth as a number: whether it is what its error deserves, and whether a difference of two scores says
how sure their order is. Order alone is correlation.py's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from adhmr.models.scorer import score_of
from adhmr.objectives.ranking import WORST_ALIGNED_ERROR, WORST_ERROR, target_score
from adhmr.preference.mesh_errors import ERROR_NAMES
from adhmr.preference.pairing import SCORE_SLOPE

BINS = 10


@dataclass(frozen=True)
class Curve:
    """What was expected and what was found in bins of a score or of a difference; bins that hold nothing are left out.

    expected, found, count: (bins,); error: mean over all samples of |found - expected| of their bin.
    """

    expected: np.ndarray
    found: np.ndarray
    count: np.ndarray

    @property
    def error(self) -> float:
        return float((np.abs(self.found - self.expected) * self.count).sum() / self.count.sum())


def scores_of(raw: np.ndarray) -> np.ndarray:
    """s in [0, 1] of raw scores."""
    return score_of(torch.from_numpy(raw)).numpy()


def target_scores(errors: np.ndarray) -> np.ndarray:
    """(...) of errors (..., 4) millimetres: the score that the calibration loss asks for, the mean of the four errors'
    targets."""
    worst = [WORST_ALIGNED_ERROR if name.startswith("pa_") else WORST_ERROR for name in ERROR_NAMES]
    metres = torch.from_numpy(errors) / 1000.0
    return torch.stack([target_score(metres[..., index], value) for index, value in enumerate(worst)]).mean(0).numpy()


def score_curve(raw: np.ndarray, found: np.ndarray) -> Curve:
    """Means of `found` (target scores, or errors) in BINS equal bins of the score; raw and found are of one shape."""
    score = scores_of(raw).ravel()
    return _curve(score, found.ravel(), np.minimum((score * BINS).astype(int), BINS - 1))


def order_curve(raw: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, Curve]:
    """Pairs of hypotheses of one image, all of them, in BINS bins of equally many by the difference of their raw scores
    (N, M); errors (N, M).

    Returns the mean difference of each bin, and the share in the right order against what the ranking loss takes a
    difference d for: sigmoid(5 d).
    """
    first, second = np.triu_indices(raw.shape[1], 1)
    difference = (raw[:, first] - raw[:, second]).ravel()
    right = (difference > 0) == (errors[:, first] < errors[:, second]).ravel()
    difference = np.abs(difference)
    number = np.empty(len(difference), int)
    number[np.argsort(difference, kind="stable")] = np.arange(len(difference)) * BINS // len(difference)
    curve = _curve(1.0 / (1.0 + np.exp(-SCORE_SLOPE * difference)), right, number)
    return _curve(difference, right, number).expected, curve


def _curve(expected: np.ndarray, found: np.ndarray, number: np.ndarray) -> Curve:
    """Means over the samples of each bin `number`; all (samples,)."""
    count = np.bincount(number, minlength=BINS)
    filled = count > 0
    sums = (np.bincount(number, values, BINS)[filled] for values in (expected, found))
    return Curve(*(total / count[filled] for total in sums), count[filled])
