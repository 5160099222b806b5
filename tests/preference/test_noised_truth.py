import numpy as np
import pytest
import roma
import torch

from adhmr.body.vertex_subset import VertexSubset
from adhmr.config.stages import NoiseConfig
from adhmr.preference.noised_truth import draw_pose_noise, noised_truth

SIZES = {"pose": 0.05, "root": 0.02, "betas": 0.3, "translation": 0.01}


def parts(noise: np.ndarray) -> dict[str, np.ndarray]:
    return {"root": noise[:, :3], "pose": noise[:, 3:72], "betas": noise[:, 72:82], "translation": noise[:, 82:]}


def test_fixed_noise_has_the_configured_deviations():
    noise = draw_pose_noise(NoiseConfig(kind="fixed", **SIZES), 4000, np.random.default_rng(0))
    assert noise.shape == (4000, 85) and noise.dtype == np.float32
    for name, part in parts(noise).items():
        assert abs(part.std() / SIZES[name] - 1) < 0.05 and abs(part.mean()) < 0.05 * SIZES[name], name


def test_mixed_noise_leaves_joints_alone_and_spreads_magnitudes():
    config = NoiseConfig(kind="mixed", smallest=0.1, joint_probability=0.6, **SIZES)
    noise = draw_pose_noise(config, 4000, np.random.default_rng(0))
    joints = noise[:, 3:72].reshape(4000, 23, 3)
    untouched = (joints == 0).all(-1)
    assert abs(untouched.mean() - 0.4) < 0.02
    assert (untouched == (joints == 0).any(-1)).all()  # all three components or none
    for name, part in parts(noise).items():
        assert 0.1 * SIZES[name] < part.std() < SIZES[name], name
    size = np.abs(noise[:, 72:82]).mean(1)  # of the shape: one magnitude a hypothesis, over a range of ten
    assert np.percentile(size, 95) / np.percentile(size, 5) > 4


@pytest.mark.parametrize("kind", ["fixed", "mixed"])
def test_noise_is_a_function_of_its_generator(kind):
    config = NoiseConfig(kind=kind)
    first, again, other = (draw_pose_noise(config, 5, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_no_noise_is_the_label(body, batch):
    truth = noised_truth(body, body, batch, torch.zeros(4, 2, 85))
    assert truth.errors.shape == (4, 2, 4) and truth.errors.abs().max() < 1e-5
    expected = batch["uvd"][:, None].expand_as(truth.hypotheses.uvd)
    torch.testing.assert_close(truth.hypotheses.uvd[..., :2], expected[..., :2], atol=0.01, rtol=0)  # pixels
    torch.testing.assert_close(truth.hypotheses.uvd[..., 2], expected[..., 2], atol=1e-4, rtol=0)  # metres


def test_more_noise_costs_more_and_translation_moves_only_the_pixels(body, batch):
    noise = torch.zeros(4, 3, 85)
    noise[:, 0, 3:72], noise[:, 1, 3:72], noise[:, 2, 82] = 0.02, 0.2, 0.3
    truth = noised_truth(body, body, batch, noise)
    assert (truth.errors[:, 1] > 2 * truth.errors[:, 0]).all() and (truth.errors[:, 0] > 0).all()
    assert truth.errors[:, 2].max() < 1e-5
    moved = truth.hypotheses.uvd[:, 2] - batch["uvd"]
    assert (moved[..., 0] > 1).all() and moved[..., 1:].abs().max() < 0.01


def test_errors_over_a_vertex_subset_keep_the_order(body, batch):
    noise = torch.from_numpy(draw_pose_noise(NoiseConfig(kind="mixed", pose=0.5), 24, np.random.default_rng(0)))
    noise = noise.view(4, 6, 85)
    whole = noised_truth(body, body, batch, noise).errors[..., 0]
    some = noised_truth(body, VertexSubset(body, 400), batch, noise).errors[..., 0]
    assert np.corrcoef(whole.flatten(), some.flatten())[0, 1] > 0.99


def test_twists_and_rotations_of_no_noise_are_the_labels(body, batch):
    found = noised_truth(body, body, batch, torch.zeros(4, 2, 85)).hypotheses
    torch.testing.assert_close(found.twists[:, 1], batch["twists"], atol=1e-4, rtol=0)
    torch.testing.assert_close(found.rotations[:, 1], roma.rotvec_to_rotmat(batch["pose"]))
