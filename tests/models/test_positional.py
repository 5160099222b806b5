"""Sine and cosine tables against their definitions."""

import math

import pytest
import torch

from adhmr.models.positional import image_sinusoid, sinusoid


def test_sinusoid_is_sines_then_cosines():
    table = sinusoid(torch.tensor([0, 7]), 6)
    frequencies = [1.0, 10000 ** (-1 / 2), 10000**-1.0]
    expected = [math.sin(7 * f) for f in frequencies] + [math.cos(7 * f) for f in frequencies]
    assert table[0].tolist() == [0.0] * 3 + [1.0] * 3
    assert table[1].tolist() == pytest.approx(expected, abs=1e-6)


def test_image_sinusoid_encodes_x_first_row_major():
    table = image_sinusoid(2, 3, 8).view(2, 3, 8)
    assert torch.equal(table[0, :, :4], table[1, :, :4])  # x does not depend on the row
    assert torch.equal(table[:, 0, 4:], table[:, 2, 4:])  # y does not depend on the column
    expected = [math.sin(2), math.cos(2), math.sin(2 * 0.01), math.cos(2 * 0.01)]
    assert table[0, 2, :4].tolist() == pytest.approx(expected, abs=1e-6)
