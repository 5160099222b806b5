"""The fp32 average of the weights."""

import torch
from torch import nn

from adhmr.training.ema import WeightAverage


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))


def test_average_follows_the_formula():
    model = Masked()
    average = WeightAverage(model, decay=0.5)
    expected = model.linear.weight.detach().double().clone()
    for update, decay in enumerate((0.1, 2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 7 / 16, 8 / 17, 0.5, 0.5)):
        with torch.no_grad():
            model.linear.weight.normal_()
        average.update(model, update)
        expected = decay * expected + (1 - decay) * model.linear.weight.detach().double()
        torch.testing.assert_close(average.module.linear.weight.double(), expected, rtol=1e-5, atol=1e-6)


def test_buffers_and_constants():
    model = Masked()
    average = WeightAverage(model, decay=0.9)
    model.norm.running_mean += 1.0
    model.norm.num_batches_tracked += 3
    average.update(model, 1000)
    torch.testing.assert_close(average.module.norm.running_mean, torch.full((2,), 0.1))
    assert average.module.norm.num_batches_tracked == 3
    assert torch.equal(average.module.mask, model.mask)  # -inf is copied, an average of it would be nan


def test_copy_is_fp32_frozen_and_separate():
    model = Masked().to(torch.bfloat16)
    average = WeightAverage(model, decay=0.9999)
    assert not average.module.training and model.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in average.module.parameters())
    before = average.module.linear.weight.clone()
    with torch.no_grad():
        model.linear.weight += 1.0
    assert torch.equal(average.module.linear.weight, before)
    average.update(model, 10**6)  # a step of 1e-4, lost in bf16
    assert (average.module.linear.weight > before).all()
