"""Objectives of groups: pairs give DPO's; Plackett-Luce by its definition, advantages, ties, any order of members."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adhmr.objectives.preference import GroupErrors, advantage, comparison_logs, dpo, group_advantages, plackett_luce

OBJECTIVES = [plackett_luce, advantage]
SEEDS = st.integers(0, 2**31)


def drawn(seed: int, size: int, count: int = 3, distinct: int = 1000) -> GroupErrors:
    """Groups, best first; fewer distinct values than members make ties."""
    generator = torch.Generator().manual_seed(seed)
    policy, reference = (1 + 0.05 * torch.randn(count, size, generator=generator) for _ in range(2))
    value = torch.randint(distinct, (count, size), generator=generator).float().sort(-1, descending=True).values
    return GroupErrors(policy, reference, value)


@pytest.mark.parametrize("objective", OBJECTIVES)
@given(seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_a_group_of_two_is_a_pair(objective, seed):
    groups = drawn(seed, 2)._replace(value=torch.tensor([[0.3, 0.1]]).expand(3, 2))
    torch.testing.assert_close(objective(groups, 100.0)[0], dpo(groups, 100.0)[0], rtol=1e-6, atol=1e-6)
    gradients = []
    for one in (objective, dpo):
        policy = groups.policy.clone().requires_grad_()
        one(groups._replace(policy=policy), 100.0)[0].backward()
        gradients.append(policy.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [2, 3, 5, 16])
def test_identical_policy_and_reference(size):
    errors = torch.rand(4, size)
    groups = GroupErrors(errors, errors, torch.arange(size, 0.0, -1.0).expand(4, size))
    loss, logs = plackett_luce(groups, 100.0)
    assert loss.item() == pytest.approx(math.log(math.factorial(size)) / (size - 1), rel=1e-6)
    assert advantage(groups, 100.0)[0].item() == pytest.approx(math.log(2), rel=1e-6)
    assert logs["accuracy"] == 0.5 and logs["margin"] == logs["kl"] == 0


@given(seed=SEEDS, size=st.integers(2, 6))
@settings(max_examples=20, deadline=None)
def test_plackett_luce_is_the_probability_of_choosing_the_best_again_and_again(seed, size):
    groups = drawn(seed, size)._replace(value=torch.arange(size, 0.0, -1.0).expand(3, size))
    reward = (50.0 * groups.gain).double()
    expected = 0.0
    for row in reward:
        for first in range(size - 1):
            expected -= math.log((row[first].exp() / row[first:].exp().sum()).item()) / (size - 1) / len(reward)
    assert plackett_luce(groups, 100.0)[0].item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES)
@given(seed=SEEDS, size=st.integers(2, 6), distinct=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_the_order_of_the_members_is_none_but_their_values(objective, seed, size, distinct):
    groups = drawn(seed, size, distinct=distinct)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    moved = GroupErrors(*(part[:, order] for part in groups))
    torch.testing.assert_close(objective(moved, 100.0)[0], objective(groups, 100.0)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_members_of_one_value_are_not_compared(objective):
    groups = drawn(0, 4)._replace(value=torch.full((3, 4), 0.1))
    policy = groups.policy.clone().requires_grad_()
    loss, logs = objective(groups._replace(policy=policy), 100.0)
    loss.backward()
    assert loss.item() == pytest.approx(0.0 if objective is plackett_luce else math.log(2))
    assert torch.count_nonzero(policy.grad) == 0 and logs["accuracy"] == 0.5


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradient_lowers_the_best_and_raises_the_worst(objective):
    groups = drawn(1, 5)
    policy, reference = groups.policy.clone().requires_grad_(), groups.reference.clone().requires_grad_()
    objective(GroupErrors(policy, reference, groups.value), 1.0)[0].backward()
    assert (policy.grad[:, 0] > 0).all() and (policy.grad[:, -1] < 0).all() and reference.grad is None


@given(seed=SEEDS, size=st.integers(2, 8), distinct=st.integers(1, 50))
@settings(max_examples=50, deadline=None)
def test_advantages_sum_to_one_on_each_side(seed, size, distinct):
    value = drawn(seed, size, distinct=distinct).value
    weights = group_advantages(value)
    for row, weight in zip(value, weights, strict=True):
        tied = bool((row == row[0]).all())
        assert weight.clamp(min=0).sum().item() == pytest.approx(0 if tied else 1)
        assert weight.clamp(max=0).sum().item() == pytest.approx(0 if tied else -1)
        assert ((weight > 0) <= (row > row.mean() - 1e-3)).all()
    torch.testing.assert_close(group_advantages(8.0 * value + 3.0), weights, atol=1e-5, rtol=1e-5)


def test_advantages_of_nearly_equal_values_keep_their_sides():
    one = torch.tensor(1.0)
    value = torch.stack([torch.nextafter(one, torch.tensor(2.0)), one])[None]
    assert group_advantages(value).tolist() == [[1.0, -1.0]]


def test_advantages_by_hand():
    found = group_advantages(torch.tensor([[5.0, 3.0, 2.0, -2.0]]))  # mean 2
    torch.testing.assert_close(found, torch.tensor([[0.75, 0.25, 0.0, -1.0]]))


def test_logs_are_of_halves_and_of_ordered_pairs():
    gain = torch.tensor([[0.4, 0.1, 0.1, -0.2, 0.3]])
    groups = GroupErrors(1 - gain, torch.ones(1, 5), torch.tensor([[5.0, 4.0, 3.0, 2.0, 2.0]]))
    logs = comparison_logs(groups)
    right, half = 6, 2  # of 10: the third and the fifth, the second and the fifth are wrong; one gain, one value equal
    assert logs["accuracy"].item() == pytest.approx((right + 0.5 * half) / 10)
    assert logs["winner_change"].item() == pytest.approx(-0.25) and logs["loser_change"].item() == pytest.approx(-0.05)
    assert logs["margin"].item() == pytest.approx(0.2)
