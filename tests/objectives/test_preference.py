"""Objectives of pairs: equality with the official loss, the identical policy, the direction of the gradient; KTO and
the winners' own error by hand. Those of groups are in test_group_preference.py."""

import math

import numpy as np
import pytest
import torch

from adhmr.objectives.preference import GroupErrors, denoising_error, dpo, ipo, kto, masked_mean, sft, winner_error


def pairs(policy: torch.Tensor, reference: torch.Tensor) -> GroupErrors:
    return GroupErrors(policy, reference, torch.tensor([[1.0, 0.0]]).expand(len(policy), 2))


def sides(policy: torch.Tensor, reference: torch.Tensor, desirable: torch.Tensor) -> GroupErrors:
    return GroupErrors(policy[:, None], reference[:, None], torch.where(desirable, 1.0, -1.0)[:, None])


def test_equals_the_official_loss(reference_dir):
    with np.load(reference_dir / "dpo_loss.npz") as archive:
        data = {name: torch.from_numpy(np.asarray(archive[name])) for name in archive.files}
    for part in ("joint", "twist"):
        weight = data[f"{part}_weight"].flatten(1).repeat(2, 1)
        policy, reference = (
            torch.stack(denoising_error(data[f"{model}_{part}"], data[f"noise_{part}"], weight).chunk(2), 1)
            for model in ("policy", "ref")
        )
        if part == "joint":
            torch.testing.assert_close(policy[:, 0], data["losses_joint_w"], rtol=1e-4, atol=0)
            torch.testing.assert_close(policy[:, 1], data["losses_joint_l"], rtol=1e-4, atol=0)
        loss, _ = dpo(pairs(policy, reference), beta=float(data["beta"]))
        torch.testing.assert_close(loss, data[f"loss_{part}"], rtol=1e-4, atol=0)


@pytest.mark.parametrize(("objective", "constant"), [(dpo, math.log(2)), (ipo, 0.25)])
def test_identical_policy_and_reference(objective, constant):
    errors = torch.rand(8, 2)
    loss, logs = objective(pairs(errors, errors), beta=100.0)
    assert loss.item() == pytest.approx(constant, rel=1e-6) and logs["accuracy"].item() == 0.5
    for name in ("margin", "winner_change", "loser_change", "kl"):
        assert logs[name].item() == 0.0
    assert logs["policy_error"] == logs["reference_error"] == errors.mean()


@pytest.mark.parametrize("objective", [dpo, ipo])
def test_gradient_lowers_the_winners_error_and_raises_the_losers(objective):
    policy, reference = torch.rand(4, 2, requires_grad=True), torch.rand(4, 2, requires_grad=True)
    objective(pairs(policy, reference), beta=0.1)[0].backward()  # far from ipo's margin of 1 / beta
    assert (policy.grad[:, 0] > 0).all() and (policy.grad[:, 1] < 0).all()
    assert reference.grad is None


def test_ipo_pulls_the_margin_to_one_over_beta_and_no_further():
    reference = torch.ones(1, 2)
    for margin, side in ((0.009, 1), (0.01, 0), (0.011, -1)):
        policy = torch.tensor([[1.0, 1.0 + margin]], requires_grad=True)
        loss, _ = ipo(pairs(policy, reference), beta=100.0)
        loss.backward()
        assert loss.item() == pytest.approx((50 * margin - 0.5) ** 2, abs=1e-5)
        assert side == 0 or policy.grad[0, 0].sign() == side


def test_dpo_and_ipo_start_with_gradients_of_like_size():
    gradients = []
    for objective in (dpo, ipo):
        policy = torch.ones(1, 2, requires_grad=True)
        objective(pairs(policy, torch.ones(1, 2)), beta=100.0)[0].backward()
        gradients.append(policy.grad)
    torch.testing.assert_close(gradients[1], 2 * gradients[0])


def test_logs_tell_what_changed():
    policy, reference = torch.tensor([[0.9, 2.0], [1.1, 1.0]]), torch.ones(2, 2)
    _, logs = dpo(pairs(policy, reference), beta=100.0)
    assert logs["accuracy"].item() == 0.5  # the first pair is told apart better than by the reference, the second worse
    assert logs["margin"].item() == pytest.approx((1.1 - 0.1) / 2)
    assert logs["winner_change"].item() == pytest.approx(0.0, abs=1e-7)
    assert logs["loser_change"].item() == pytest.approx(0.5)
    assert logs["policy_error"].item() == pytest.approx(1.25) and logs["reference_error"].item() == 1.0
    assert logs["kl"].item() == pytest.approx(0.25)


def test_the_first_of_a_pair_is_its_winner_whatever_the_values():
    policy, reference = torch.rand(3, 2), torch.rand(3, 2)
    tied = GroupErrors(policy, reference, torch.zeros(3, 2))
    expected, logs = dpo(pairs(policy, reference), 100.0)
    found, tied_logs = dpo(tied, 100.0)
    assert found == expected and tied_logs["accuracy"] == logs["accuracy"]


def test_masked_entries_stay_in_the_denominator():
    weight = torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert denoising_error(torch.ones(4), torch.zeros(4), weight).item() == 0.5


def test_masked_out_part_is_constant():
    """Without twist labels the twist loss is log 2 and has no gradient."""
    predicted = torch.randn(2, 2, 46, requires_grad=True)
    error = denoising_error(predicted, torch.randn(2, 2, 46), torch.zeros(2, 2, 46))
    loss, _ = dpo(pairs(error, torch.zeros(2, 2)), 100.0)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert torch.count_nonzero(predicted.grad) == 0


def test_kto_by_hand():
    gain, desirable = torch.tensor([0.03, -0.01, 0.02]), torch.tensor([True, True, False])
    loss, logs = kto(sides(1.0 - gain, torch.ones(3), desirable), 100.0, torch.tensor(0.01), 2.0, 0.5)

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    expected = (2 * (1 - sigmoid(2)) + 2 * (1 - sigmoid(-2)) + 0.5 * (1 - sigmoid(-1))) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert logs["accuracy"].item() == pytest.approx(1 / 3) and logs["baseline"].item() == pytest.approx(0.01)
    assert logs["winner_change"].item() == pytest.approx(-0.01) and logs["loser_change"].item() == pytest.approx(-0.02)
    assert logs["margin"].item() == pytest.approx(-0.01) and logs["kl"].item() == pytest.approx(-0.04 / 3)


def test_kto_of_an_identical_policy_is_half_the_weights():
    groups = sides(torch.ones(4), torch.ones(4), torch.tensor([True, False, True, False]))
    loss, logs = kto(groups, 100.0, torch.zeros(()), 1.0, 3.0)
    assert loss.item() == pytest.approx(1.0) and logs["accuracy"].item() == 0.5


def test_kto_gradient_lowers_winners_and_raises_losers():
    policy, reference = torch.rand(4, requires_grad=True), torch.rand(4, requires_grad=True)
    baseline, desirable = torch.zeros((), requires_grad=True), torch.tensor([True, False, True, False])
    kto(sides(policy, reference, desirable), 1.0, baseline)[0].backward()
    assert (policy.grad[desirable] > 0).all() and (policy.grad[~desirable] < 0).all()
    assert reference.grad is None and baseline.grad is None


def test_the_winners_own_error_needs_no_reference():
    policy = torch.rand(3, 1, requires_grad=True)
    loss, logs = sft(GroupErrors(policy, None, torch.ones(3, 1)))
    loss.backward()
    assert loss == policy.mean() == logs["policy_error"]
    torch.testing.assert_close(policy.grad, torch.full((3, 1), 1 / 3))


def test_who_the_winners_are():
    policy = torch.tensor([[1.0, 2.0, 9.0], [3.0, 4.0, 9.0]])
    assert winner_error(GroupErrors(policy, None, torch.zeros(2, 3))) == 2.0  # the first of each group
    assert winner_error(GroupErrors(policy[:, :1], None, torch.tensor([[1.0], [-1.0]]))) == 1.0
    assert winner_error(GroupErrors(policy[:, :1], None, torch.tensor([[-1.0], [-1.0]]))) == 0.0


def test_the_mean_over_nothing_is_zero():
    values = torch.tensor([1.0, 3.0])
    assert masked_mean(values, torch.tensor([False, True])) == 3.0
    assert masked_mean(values, torch.tensor([False, False])) == 0.0
