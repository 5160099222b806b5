import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from adhmr.data.synthetic.poses import GAP, PoseBank, facing_forward, mirror_pose, sample_betas, split_frames
from adhmr.data.synthetic.sets import DOMAINS
from adhmr.errors import AdhmrError

TAKES = [250, 498, 154, 1215]


def test_splits_are_disjoint_and_a_gap_lies_around_held_out_frames():
    frames = split_frames(TAKES)
    starts = np.cumsum([0, *TAKES])
    take_of = np.searchsorted(starts, np.arange(starts[-1]), side="right")
    for split in ("val", "test"):
        assert len(frames[split]) > 0.05 * sum(TAKES)
        for other in ("train", "val", "test"):
            if other == split:
                continue
            distance = np.abs(frames[split][:, None] - frames[other][None])
            same_take = take_of[frames[split]][:, None] == take_of[frames[other]][None]
            assert distance[same_take].min() > GAP
    assert len(frames["train"]) > 0.5 * sum(TAKES)


def test_every_split_has_people_who_stand_and_people_who_bend():
    for split in ("train", "val", "test"):
        bank = PoseBank(split)
        assert len(bank.straight) > 100 and len(bank.bent) > 20


def test_bank_poses_of_different_splits_differ():
    train, test = PoseBank("train"), PoseBank("test")
    distance = np.abs(train.frames[:, None, 1:] - test.frames[None, ::20, 1:]).mean(axis=(2, 3))
    assert distance.min() > 1e-3


def test_facing_forward_turns_about_the_vertical_only():
    rng = np.random.default_rng(0)
    root = Rotation.from_rotvec(rng.normal(0, 0.8, (50, 3)))
    turned = Rotation.from_rotvec(facing_forward(root.as_rotvec()))
    forward = turned.apply([0.0, 0.0, 1.0])
    np.testing.assert_allclose(forward[:, 0], 0.0, atol=1e-9)
    assert (forward[:, 2] > 0).all()
    np.testing.assert_allclose(turned.apply([0.0, 1.0, 0.0])[:, 1], root.apply([0.0, 1.0, 0.0])[:, 1], atol=1e-9)


def test_mirror_is_its_own_inverse_and_swaps_sides():
    pose = np.random.default_rng(0).normal(size=(24, 3))
    np.testing.assert_array_equal(mirror_pose(mirror_pose(pose)), pose)
    np.testing.assert_array_equal(mirror_pose(pose)[16], pose[17] * [1, -1, -1])


def test_sampled_people_are_mostly_upright_and_differ():
    bank, spec = PoseBank("train"), DOMAINS["synth-game"]
    rng = np.random.default_rng(0)
    poses = np.stack([bank.sample(rng, spec) for _ in range(400)])
    up = Rotation.from_rotvec(poses[:, 0]).apply([0.0, 1.0, 0.0])[:, 1]
    assert 0.002 < (up < 0.5).mean() < 0.08
    assert (up > np.cos(np.radians(30))).mean() > 0.6
    assert np.abs(poses[:, None] - poses[None])[~np.eye(400, dtype=bool)].max(axis=(1, 2)).min() > 0.05


def test_betas_are_bounded():
    betas = np.stack([sample_betas(np.random.default_rng(i)) for i in range(500)])
    assert np.abs(betas).max() <= 2.0
    assert 0.6 < betas.std() < 0.75


def test_a_missing_bank_is_a_clear_error(tmp_path):
    with pytest.raises(AdhmrError, match="pose bank is missing"):
        PoseBank("train", tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(AdhmrError, match="at least one take"):
        PoseBank("train", tmp_path / "other.npz")
