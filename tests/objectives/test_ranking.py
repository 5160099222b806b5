"""The scorer's losses: equality with the official rank loss, and limits."""

import math

import numpy as np
import pytest
import torch

from adhmr.objectives.ranking import WORST_ALIGNED_ERROR, calibration_entropy, calibration_loss, rank_loss


def test_equals_the_official_rank_loss(reference_dir):
    """The official loss takes the logarithm, cut at -100, of a rounded sigmoid: a wrongly ordered pair whose sigmoid
    rounds to 0 or 1 costs 100 instead of its logit. Ours works on logits; such pairs must be the only difference."""
    with np.load(reference_dir / "rank_loss.npz") as archive:
        score, error = torch.from_numpy(archive["score"]), torch.from_numpy(archive["error"])
        sigma, expected = float(archive["sigma"]), float(archive["loss"])
    first, second = torch.triu_indices(15, 15, 1)
    logits = sigma * (score[:, first] - score[:, second])
    better = error[:, first] < error[:, second]
    rounded = torch.where(better, logits.sigmoid() == 0, logits.sigmoid() == 1)
    assert rounded.sum() == 1
    excess = (100.0 - logits[rounded].abs()).sum() / len(score)
    assert rank_loss(score, error, sigma).item() + excess.item() == pytest.approx(expected, rel=1e-5)


def test_right_order_costs_nothing_and_wrong_order_much():
    error = torch.arange(6.0)[None]
    assert rank_loss(-10 * error, error).item() < 1e-6
    assert rank_loss(10 * error, error).item() > 1000


def test_equal_scores_cost_log_two_a_pair():
    assert rank_loss(torch.zeros(2, 15), torch.rand(2, 15)).item() == pytest.approx(105 * math.log(2), rel=1e-5)


def test_calibration_reaches_zero_at_its_target():
    error = torch.tensor([[0.08, 0.155, 0.2]])
    target = (0.3 - error) / 0.29
    raw = torch.logit(target) / 5.0
    assert calibration_loss(raw, error).item() == pytest.approx(0.0, abs=1e-10)
    assert calibration_loss(raw, error, WORST_ALIGNED_ERROR).item() > 0.05


def test_cross_entropy_moves_a_saturated_score_that_is_wrong():
    error = torch.tensor([[0.010, 0.155, 0.300]])  # metres: they deserve 1, a half and 0
    deserved = torch.tensor([[4.0, 0.0, -4.0]], requires_grad=True)
    (slope,) = torch.autograd.grad(calibration_entropy(deserved, error), deserved)
    assert slope.abs().max() < 1e-6
    saturated = torch.full((1, 3), 8.0, requires_grad=True)
    (slope,) = torch.autograd.grad(calibration_entropy(saturated, error), saturated)
    (flat,) = torch.autograd.grad(calibration_loss(saturated, error), saturated)
    assert slope[0, 2] > slope[0, 1] > 0.1 and flat.abs().max() < 1e-6
