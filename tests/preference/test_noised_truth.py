from typing import get_args

import numpy as np
import pytest
import roma
import torch
from pydantic import ValidationError

from adhmr.body.skeleton import JOINT_NAMES
from adhmr.body.vertex_subset import VertexSubset
from adhmr.config.losses import NoiseConfig, NoisedJoint
from adhmr.preference.noised_truth import as_hypotheses, draw_pose_noise, noised_truth

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
def test_named_joints_have_noise_of_their_own_size(kind):
    table = {"pelvis": 0.5, "left_knee": 0.2, "right_wrist": 0.0}
    plain, own = (
        draw_pose_noise(NoiseConfig(kind=kind, joints=joints, **SIZES), 500, np.random.default_rng(0))
        for joints in ({}, table)
    )
    for index, name in enumerate(JOINT_NAMES[:24]):
        expected = plain[:, 3 * index : 3 * index + 3]
        if name in table:  # the same draws, of another size
            expected = expected * (table[name] / (SIZES["root"] if index == 0 else SIZES["pose"]))
        np.testing.assert_allclose(own[:, 3 * index : 3 * index + 3], expected, rtol=1e-4, err_msg=name)
    np.testing.assert_array_equal(own[:, 72:], plain[:, 72:])


def test_the_table_of_joints_knows_the_bodys_joints():
    assert get_args(NoisedJoint) == JOINT_NAMES[:24]
    with pytest.raises(ValidationError, match="left_kne"):
        NoiseConfig(joints={"left_kne": 0.1})


def test_a_label_as_a_hypothesis_is_its_noised_truth_without_noise(body, batch):
    one = (batch[name][:, None] for name in ("pose", "betas", "transl"))
    label = as_hypotheses(body, *one, batch["intrinsics"])
    truth = noised_truth(body, body, batch, torch.zeros(4, 1, 85))
    for part, expected in zip(label, truth.hypotheses):
        torch.testing.assert_close(part, expected)
    torch.testing.assert_close(label.twists[:, 0], batch["twists"], atol=1e-4, rtol=0)


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


def test_noise_follows_the_limbs_and_keeps_its_size():
    noise = draw_pose_noise(NoiseConfig(kind="fixed", chain=0.6, **SIZES), 20000, np.random.default_rng(0))
    pose = noise[:, :72].reshape(-1, 24, 3)
    knee, ankle, foot, hip, spine = 4, 7, 10, 1, 3

    def correlation(one: int, other: int) -> float:
        return float(np.corrcoef(pose[:, one, 0], pose[:, other, 0])[0, 1])

    assert abs(correlation(knee, ankle) - 0.6) < 0.02 and abs(correlation(knee, foot) - 0.36) < 0.02
    assert abs(correlation(hip, spine)) < 0.02 and abs(correlation(0, hip)) < 0.02  # what hangs at the root is free
    np.testing.assert_allclose(pose[:, 1:].std(axis=(0, 2)), SIZES["pose"], rtol=0.02)
