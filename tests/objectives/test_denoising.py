"""The base model's loss parts: equality with the official loss, and the auxiliaries on cases with known values."""

import math

import numpy as np
import pytest
import torch

from adhmr.models.encoder import ImageFeatures
from adhmr.objectives.denoising import betas_loss, depth_loss, encoder_losses, heatmap_loss, joints2d_loss, noise_loss


def test_parts_equal_the_official_loss(reference_dir):
    with np.load(reference_dir / "denoising_loss.npz") as archive:
        data = {name: torch.from_numpy(np.asarray(archive[name])) for name in archive.files}
    joint_weight, twist_weight = data["joint_weight"], data["twist_weight"].flatten(1)
    parts = {
        "shape": data["weight_shape"] * betas_loss(data["pred_shape"], data["target_shape"]),
        "2d": data["weight_2d"] * joints2d_loss(data["pred_2d"], data["target_2d"], joint_weight[..., :2]),
        "joint": noise_loss(data["eps_joint"][:, None], data["noise_joint"][:, None], joint_weight.flatten(1)),
        "twist": noise_loss(data["eps_twist"][:, None], data["noise_twist"][:, None], twist_weight),
    }
    for name, part in parts.items():
        torch.testing.assert_close(part, data[f"loss_{name}"], rtol=1e-4, atol=0)
    torch.testing.assert_close(sum(parts.values()), data["total"], rtol=1e-4, atol=0)


def test_noise_loss_averages_hypotheses_and_weighs_levels():
    noise = torch.zeros(1, 2, 87)
    predicted = torch.stack([torch.ones(87), 2 * torch.ones(87)])[None]
    weight = torch.ones(1, 87)
    assert noise_loss(predicted, noise, weight).item() == pytest.approx(87 * (1 + 4) / 2)
    levels = torch.tensor([[[1.0], [0.25]]])
    assert noise_loss(predicted, noise, weight, levels).item() == pytest.approx(87.0)
    assert noise_loss(predicted, noise, torch.zeros(1, 87)).item() == 0.0


def test_betas_without_labels_do_not_count():
    predicted, target = torch.ones(2, 10), torch.zeros(2, 10)
    assert betas_loss(predicted, target, torch.tensor([1.0, 0.0])).item() == pytest.approx(5.0)


def test_heatmap_loss_is_least_at_the_true_joint():
    cells = (torch.arange(16) + 0.5) * 2 / 16 - 1
    target = torch.zeros(1, 29, 2)
    target[..., 0], target[..., 1] = cells[10], cells[3]
    weight = torch.ones(1, 29)

    def loss(row: int, column: int) -> float:
        logits = torch.zeros(1, 29, 16, 16)
        logits[..., row, column] = 4.0
        return heatmap_loss(logits, target, weight).item()

    assert loss(3, 10) < loss(3, 9) < loss(3, 4)
    assert loss(3, 10) < loss(10, 3)  # rows are y
    assert heatmap_loss(torch.zeros(1, 29, 16, 16), target, weight).item() == pytest.approx(math.log(256), rel=1e-4)


def test_heatmap_loss_leaves_out_joints_outside_the_crop():
    target = torch.full((1, 29, 2), 1.5)
    assert heatmap_loss(torch.randn(1, 29, 16, 16), target, torch.ones(1, 29)).item() == 0.0


def test_depth_loss_is_a_masked_mean_in_metres():
    predicted, target, weight = torch.full((1, 29), 0.3), torch.zeros(1, 29), torch.zeros(1, 29)
    weight[0, :5] = 1
    assert depth_loss(predicted, target, weight).item() == pytest.approx(0.3)


def test_an_encoders_own_losses_count_half_crops():
    """Estimates that are off by a tenth of the crop in x, y or by 0.1 m in depth, in a crop that is no square."""
    uvd = torch.rand(1, 29, 3) * torch.tensor([192.0, 256.0, 1.0])
    seen = torch.zeros(1, 29, 3)
    seen[:, :10] = 1.0
    batch = {"image": torch.zeros(1, 3, 256, 192), "uvd": uvd, "uvd_weight": seen}
    estimate = uvd / torch.tensor([192.0, 256.0, 1.0]) + 0.1
    features = ImageFeatures(*[None] * 7)._replace(joints2d=2 * estimate[..., :2] - 1, depth=estimate[..., 2])
    parts = encoder_losses(features, batch, joints2d=True, heatmap=False, depth=True)
    assert parts["joints2d"].item() == pytest.approx(10 * 2 * 0.2**2, rel=1e-4)
    assert parts["depth"].item() == pytest.approx(0.1, rel=1e-4)
    assert list(parts) == ["joints2d", "depth"]
    assert not encoder_losses(features._replace(depth=None), batch, joints2d=False, heatmap=False, depth=True)
