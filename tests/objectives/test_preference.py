"""DPO: equality with the official loss, the identical policy, and the direction of its gradient. KTO: by hand."""

import math

import numpy as np
import pytest
import torch

from adhmr.objectives.preference import PairErrors, denoising_error, dpo_loss, kto_gain, kto_loss, masked_mean


def test_equals_the_official_loss(reference_dir):
    with np.load(reference_dir / "dpo_loss.npz") as archive:
        data = {name: torch.from_numpy(np.asarray(archive[name])) for name in archive.files}
    for part in ("joint", "twist"):
        weight = data[f"{part}_weight"].flatten(1).repeat(2, 1)
        errors = [
            PairErrors(*denoising_error(data[f"{model}_{part}"], data[f"noise_{part}"], weight).chunk(2))
            for model in ("policy", "ref")
        ]
        if part == "joint":
            torch.testing.assert_close(errors[0].winner, data["losses_joint_w"], rtol=1e-4, atol=0)
            torch.testing.assert_close(errors[0].loser, data["losses_joint_l"], rtol=1e-4, atol=0)
        loss, _ = dpo_loss(*errors, beta=float(data["beta"]))
        torch.testing.assert_close(loss, data[f"loss_{part}"], rtol=1e-4, atol=0)


def test_identical_policy_and_reference():
    errors = PairErrors(torch.rand(8), torch.rand(8))
    parts = [dpo_loss(errors, errors) for _ in ("joints", "twists")]
    assert sum(loss for loss, _ in parts).item() == pytest.approx(2 * math.log(2), rel=1e-6)
    logs = parts[0][1]
    assert logs["accuracy"].item() == 0.5
    assert logs["margin"].item() == logs["winner_change"].item() == logs["loser_change"].item() == 0.0


def test_gradient_lowers_the_winners_error_and_raises_the_losers():
    winner, loser = torch.rand(4, requires_grad=True), torch.rand(4, requires_grad=True)
    reference = PairErrors(torch.rand(4, requires_grad=True), torch.rand(4, requires_grad=True))
    loss, _ = dpo_loss(PairErrors(winner, loser), reference)
    loss.backward()
    assert (winner.grad > 0).all() and (loser.grad < 0).all()
    assert reference.winner.grad is None and reference.loser.grad is None


def test_logs_tell_what_changed():
    policy = PairErrors(torch.tensor([0.9, 1.1]), torch.tensor([2.0, 1.0]))
    reference = PairErrors(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 1.0]))
    _, logs = dpo_loss(policy, reference)
    assert logs["accuracy"].item() == 0.5  # the first pair is told apart better than by the reference, the second worse
    assert logs["margin"].item() == pytest.approx((1.1 - 0.1) / 2)
    assert logs["winner_change"].item() == pytest.approx(0.0, abs=1e-7)
    assert logs["loser_change"].item() == pytest.approx(0.5)


def test_masked_entries_stay_in_the_denominator():
    weight = torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert denoising_error(torch.ones(4), torch.zeros(4), weight).item() == 0.5


def test_masked_out_group_is_constant():
    """Without twist labels the twist loss is log 2 and has no gradient."""
    predicted = torch.randn(4, 46, requires_grad=True)
    error = denoising_error(predicted, torch.randn(4, 46), torch.zeros(4, 46))
    pairs = PairErrors(*error.chunk(2))
    loss, _ = dpo_loss(pairs, PairErrors(torch.zeros(2), torch.zeros(2)))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert torch.count_nonzero(predicted.grad) == 0


def test_kto_by_hand():
    gain, desirable = torch.tensor([0.03, -0.01, 0.02]), torch.tensor([True, True, False])
    loss, logs = kto_loss(gain, desirable, torch.tensor(0.01), 100.0, 2.0, 0.5)

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    expected = (2 * (1 - sigmoid(2)) + 2 * (1 - sigmoid(-2)) + 0.5 * (1 - sigmoid(-1))) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert logs["accuracy"].item() == pytest.approx(1 / 3) and logs["kl"].item() == pytest.approx(0.01)
    assert logs["winner_change"].item() == pytest.approx(-0.01) and logs["loser_change"].item() == pytest.approx(-0.02)


def test_kto_of_an_identical_policy_is_half_the_weights():
    gain = kto_gain(torch.ones(4), torch.ones(4))
    loss, logs = kto_loss(gain, torch.tensor([True, False, True, False]), torch.zeros(()), 100.0, 1.0, 3.0)
    assert loss.item() == pytest.approx(1.0) and logs["accuracy"].item() == 0.5


def test_kto_gradient_lowers_winners_and_raises_losers():
    policy, reference = torch.rand(4, requires_grad=True), torch.rand(4, requires_grad=True)
    kl = torch.zeros((), requires_grad=True)
    desirable = torch.tensor([True, False, True, False])
    loss, _ = kto_loss(kto_gain(policy, reference), desirable, kl, beta=1.0)
    loss.backward()
    assert (policy.grad[desirable] > 0).all() and (policy.grad[~desirable] < 0).all()
    assert reference.grad is None and kl.grad is None


def test_the_mean_over_nothing_is_zero():
    values = torch.tensor([1.0, 3.0])
    assert masked_mean(values, torch.tensor([False, True])) == 3.0
    assert masked_mean(values, torch.tensor([False, False])) == 0.0
