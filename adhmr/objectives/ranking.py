"""HMR-Scorer's losses: pairwise ranking of an image's hypotheses, and calibration across images.

The errors themselves come from adhmr.body.metrics; the scorer is in adhmr.models.scorer.
"""

import torch
import torch.nn.functional as F

from adhmr.models.scorer import SCORE_SLOPE, score_of

#: Errors in metres at which the calibrated score reaches 1 and 0; the aligned (PA) errors use half the range.
PERFECT_ERROR, WORST_ERROR, WORST_ALIGNED_ERROR = 0.010, 0.300, 0.150


def rank_loss(raw: torch.Tensor, error: torch.Tensor, sigma: float = 5.0) -> torch.Tensor:
    """Cross-entropy of "hypothesis m is better than n" with sigmoid(sigma (raw_m - raw_n)), paper section 4.2.

    raw and error (N, M); summed over the M (M - 1) / 2 pairs m < n, mean over images. The unit of error is free.
    Taken of logits: the official code's log of a rounded sigmoid charges 100 for a wrong pair beyond a logit of 16.6.
    """
    first, second = torch.triu_indices(raw.shape[1], raw.shape[1], 1, device=raw.device)
    better = (error[:, first] < error[:, second]).float()  # (N, pairs)
    logits = sigma * (raw[:, first].float() - raw[:, second].float())
    return F.binary_cross_entropy_with_logits(logits, better, reduction="none").sum(1).mean()


def target_score(error: torch.Tensor, worst: float = WORST_ERROR) -> torch.Tensor:
    """The score that a hypothesis of this error in metres should have: (worst - error) / (worst - 10 mm), in [0, 1]."""
    return ((worst - error) / (worst - PERFECT_ERROR)).clamp(0.0, 1.0)


def calibration_loss(raw: torch.Tensor, error: torch.Tensor, worst: float = WORST_ERROR) -> torch.Tensor:
    """Mean squared difference of the score from `target_score`.

    raw (N, M), error (N, M) metres. Ranking alone compares hypotheses of one image; this makes scores comparable
    between images, which cleaning needs.
    """
    return F.mse_loss(score_of(raw.float()), target_score(error, worst))


def calibration_entropy(raw: torch.Tensor, error: torch.Tensor, worst: float = WORST_ERROR) -> torch.Tensor:
    """Mean cross-entropy of the score against `target_score`, least where they are equal.

    The squared error has no gradient where sigmoid(5 raw) is flat, and there the ranking loss may have driven the
    scores before it is felt; this has one.
    """
    return F.binary_cross_entropy_with_logits(SCORE_SLOPE * raw.float(), target_score(error, worst))
