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
    """Means of what was expected and of what was found, each (bins,), in bins of equally many samples."""

    expected: np.ndarray
    found: np.ndarray

    @property
    def error(self) -> float:
        """Mean distance of what was found from what was expected."""
        return float(np.abs(self.found - self.expected).mean())


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
    """Means of the score and of `found` (target scores, or errors) in bins of the score; raw and found are of one
    shape."""
    return Curve(*_means(raw.ravel(), scores_of(raw).ravel(), found.ravel()))


def order_curve(raw: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, Curve]:
    """All pairs of hypotheses of one image, in bins of the difference of their raw scores (N, M); errors (N, M).

    Returns the mean difference of each bin, and the share in the right order against what the ranking loss takes a
    difference d for: sigmoid(5 d).
    """
    first, second = np.triu_indices(raw.shape[1], 1)
    difference = (raw[:, first] - raw[:, second]).ravel()
    right = (difference > 0) == (errors[:, first] < errors[:, second]).ravel()
    difference = np.abs(difference)
    means = _means(difference, difference, 1.0 / (1.0 + np.exp(-SCORE_SLOPE * difference)), right)
    return means[0], Curve(*means[1:])


def _means(by: np.ndarray, *values: np.ndarray) -> list[np.ndarray]:
    """Of each array (samples,) its means in BINS bins of equally many samples, ordered by `by`."""
    order = np.argsort(by, kind="stable")
    bins = np.array_split(order, min(BINS, len(order)))
    return [np.array([value[chosen].mean() for chosen in bins]) for value in values]
