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
    average = WeightAverage(model.state_dict(), decay=0.5)
    expected = model.linear.weight.detach().double().clone()
    for update, decay in enumerate((0.1, 2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 7 / 16, 8 / 17, 0.5, 0.5)):
        with torch.no_grad():
            model.linear.weight.normal_()
        average.update(model.state_dict(), update)
        expected = decay * expected + (1 - decay) * model.linear.weight.detach().double()
        torch.testing.assert_close(average.held["linear.weight"].double(), expected, rtol=1e-5, atol=1e-6)


def test_pieces_make_the_average_of_the_whole():
    """As the ranks of ZeRO-3 hold them."""
    weight = torch.randn(10)
    whole = WeightAverage({"w": weight}, decay=0.9)
    pieces = [WeightAverage({"w": part}, decay=0.9) for part in weight.split(4)]
    for update in range(20):
        weight = torch.randn(10)
        whole.update({"w": weight}, update)
        for piece, part in zip(pieces, weight.split(4)):
            piece.update({"w": part}, update)
    assert torch.equal(torch.cat([piece.held["w"] for piece in pieces]), whole.held["w"])


def test_buffers_and_constants():
    model = Masked()
    average = WeightAverage(model.state_dict(), decay=0.9)
    model.norm.running_mean += 1.0
    model.norm.num_batches_tracked += 3
    average.update(model.state_dict(), 1000)
    torch.testing.assert_close(average.held["norm.running_mean"], torch.full((2,), 0.1))
    assert average.held["norm.num_batches_tracked"] == 3
    assert torch.equal(average.held["mask"], model.mask)  # -inf is copied, an average of it would be nan


def test_average_is_fp32_and_separate():
    model = Masked().to(torch.bfloat16)
    average = WeightAverage(model.state_dict(), decay=0.9999)
    assert all(value.dtype != torch.bfloat16 and not value.requires_grad for value in average.held.values())
    before = average.held["linear.weight"].clone()
    with torch.no_grad():
        model.linear.weight += 1.0
    assert torch.equal(average.held["linear.weight"], before)
    average.update(model.state_dict(), 10**6)  # a step of 1e-4, lost in bf16
    assert (average.held["linear.weight"] > before).all()
