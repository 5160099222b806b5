"""The learning rate of each step (adhmr/training/schedule.py)."""

from itertools import pairwise

import pytest
import torch

from adhmr.config.training import OptimConfig
from adhmr.training.schedule import learning_rate_factor, set_learning_rate


def factors(config: OptimConfig, steps: int) -> list[float]:
    return [learning_rate_factor(config, steps, step) for step in range(steps)]


def test_warm_up_then_constant():
    assert factors(OptimConfig(warmup_steps=4), 6) == [0.25, 0.5, 0.75, 1, 1, 1]


def test_cosine_falls_from_one_to_its_floor():
    config = OptimConfig(schedule="cosine", min_lr_ratio=0.1, warmup_steps=2)
    values = factors(config, 103)
    assert values[2] == 1.0
    assert values[52] == pytest.approx(0.1 + 0.9 * 0.5, abs=0.01)
    assert all(later < earlier for earlier, later in pairwise(values[2:]))
    assert learning_rate_factor(config, 103, 103) == pytest.approx(0.1)
    assert learning_rate_factor(config, 103, 500) == pytest.approx(0.1)


def test_steps_multiply_at_each_milestone():
    config = OptimConfig(schedule="step", milestones=[2, 4], gamma=0.5)
    assert factors(config, 6) == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_groups_keep_their_scale():
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": [parameters[0]], "lr_scale": 1.0}, {"params": [parameters[1]], "lr_scale": 0.1}]
    optimizer = torch.optim.AdamW(groups, lr=7.0)
    assert set_learning_rate(optimizer, OptimConfig(lr=0.2, warmup_steps=2), 10, 0) == pytest.approx(0.1)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.01])
