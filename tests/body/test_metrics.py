"""Errors: hand-made cases, invariance of the Procrustes-aligned ones, and hypotheses over one target."""

from collections.abc import Callable

import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adhmr.body.metrics import joint_error, pa_error, procrustes_align, vertex_error

SEEDS = st.integers(0, 2**32 - 1)


def _points(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_joint_error_in_metres() -> None:
    target = torch.zeros(2, 4, 3)
    predicted = target + torch.tensor([1.0, 2.0, 3.0])
    predicted[0, 1, 0] += 0.1
    torch.testing.assert_close(joint_error(predicted, target), torch.tensor([0.025, 0.0]))
    torch.testing.assert_close(joint_error(predicted, target, root=None)[1], torch.tensor(14.0).sqrt())


def test_vertex_error_aligns_the_given_points() -> None:
    target, shift = _points(0, 5), torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    root = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    predicted = target + shift + torch.tensor([0.0, 0.0, 0.02], dtype=torch.float64)
    aligned = vertex_error(predicted, target, root + shift, root)
    torch.testing.assert_close(aligned, torch.tensor(0.02, dtype=torch.float64))
    assert vertex_error(predicted, target) > 2


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, scale=st.floats(0.1, 10))
def test_similarity_transforms_cost_nothing(seed: int, scale: float) -> None:
    target = _points(seed, 3, 24)
    rotation = roma.rotvec_to_rotmat(_points(seed + 1, 3))
    predicted = scale * target @ rotation + _points(seed + 2, 3, 1)
    torch.testing.assert_close(procrustes_align(predicted, target), target, atol=1e-8, rtol=0)
    assert pa_error(predicted, target).max() < 1e-8


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, scale=st.floats(0.1, 10))
def test_aligned_error_ignores_how_the_prediction_lies(seed: int, scale: float) -> None:
    target, predicted = _points(seed, 2, 14), _points(seed + 1, 2, 14)
    moved = scale * predicted @ roma.rotvec_to_rotmat(_points(seed + 2, 2)) + 5.0
    torch.testing.assert_close(pa_error(moved, target), pa_error(predicted, target))


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_alignment_is_the_best_one(seed: int) -> None:
    target, predicted = _points(seed, 20), _points(seed + 1, 20)
    aligned = procrustes_align(predicted, target)
    least = (aligned - target).square().sum()
    for step in range(3):
        turn = roma.rotvec_to_rotmat(0.02 * _points(seed + 2 + step))
        assert (aligned @ turn - target).square().sum() >= least - 1e-9
        assert ((aligned - aligned.mean(0)) * 1.01 + aligned.mean(0) - target).square().sum() >= least - 1e-9


def test_mirror_images_are_not_aligned_away() -> None:
    target = _points(0, 24)
    mirrored = target * torch.tensor([-1.0, 1.0, 1.0])
    assert pa_error(mirrored, target) > 0.1


def test_points_in_a_plane_or_in_one_place() -> None:
    flat = _points(0, 24) * torch.tensor([1.0, 1.0, 0.0])
    turned = flat @ roma.rotvec_to_rotmat(_points(1))
    assert pa_error(turned, flat) < 1e-9
    assert pa_error(torch.zeros(24, 3), torch.randn(24, 3)).isfinite()


@pytest.mark.parametrize("error", [joint_error, pa_error, vertex_error])
def test_one_target_serves_its_hypotheses(error: Callable[[Tensor, Tensor], Tensor]) -> None:
    predicted, target = _points(0, 3, 5, 30), _points(1, 3, 1, 30)
    errors = error(predicted, target)
    assert errors.shape == (3, 5)
    for i in range(3):
        for m in range(5):
            torch.testing.assert_close(errors[i, m], error(predicted[i, m], target[i, 0]))


def test_single_precision_on_a_far_mesh() -> None:
    target = torch.randn(2, 7000, 3)
    rotation = roma.rotvec_to_rotmat(torch.tensor([[0.3, -1.0, 2.0], [3.0, 0.1, 0.0]]))
    assert pa_error(0.9 * target @ rotation + 4.0, target).max() < 1e-5
