import numpy as np
import pytest
import roma
import torch

from adhmr.body.body_model import BodyModel
from adhmr.data.randomness import generator_for
from adhmr.data.synthetic.labels import (
    DEPTH_FLIPPED,
    GROSS,
    KIND_ODDS,
    MILD,
    SWAPPED,
    exact_records,
    pseudo_labels,
)
from adhmr.data.synthetic.poses import PoseBank
from adhmr.data.synthetic.scene import Rotation, view_rotation
from adhmr.data.synthetic.sets import DOMAINS

COUNT, SIZE = 500, 192
WILD = DOMAINS["synth-wild"]


@pytest.fixture(scope="module")
def body():
    return BodyModel()


@pytest.fixture(scope="module")
def bank():
    return PoseBank("train")


@pytest.fixture(scope="module")
def truth(body, bank):
    rng = np.random.default_rng(0)
    poses = np.stack([bank.sample(rng, WILD) for _ in range(COUNT)])
    for pose in poses:
        pose[0] = (view_rotation(rng, WILD) * Rotation.from_rotvec(pose[0])).as_rotvec()
    betas = rng.normal(0, 0.5, (COUNT, 10))
    transl = np.tile([0.1, -0.2, 6.0], (COUNT, 1))
    intrinsics = np.tile([[400.0, 0, 96], [0, 400.0, 96], [0, 0, 1]], (COUNT, 1, 1))
    return exact_records(body, poses, betas, transl, intrinsics, SIZE)


@pytest.fixture(scope="module")
def pseudo(body, bank, truth):
    return pseudo_labels([generator_for(0, row) for row in range(COUNT)], WILD, bank, body, truth)


def root_relative_error(records, truth):
    joints = records["joints29"] - records["joints29"][:, :1]
    return np.linalg.norm(joints - (truth["joints29"] - truth["joints29"][:, :1]), axis=-1)  # (N, 29) metres


def test_exact_records_agree_with_the_body_model(body, truth):
    few = truth[:20]
    rotations = roma.rotvec_to_rotmat(torch.from_numpy(few["pose"]))
    joints = body(rotations, torch.from_numpy(few["betas"]), torch.from_numpy(few["transl"])).joints29.numpy()
    np.testing.assert_allclose(few["joints29"], joints, atol=2e-5)
    homogeneous = joints @ few["intrinsics"].transpose(0, 2, 1)
    np.testing.assert_allclose(few["joints29_px"], homogeneous[..., :2] / homogeneous[..., 2:], atol=1e-2)
    np.testing.assert_allclose(np.linalg.norm(few["twists"], axis=-1), 1.0, atol=1e-3)


def test_pseudo_records_are_consistent_in_themselves(body, pseudo):
    records, _ = pseudo
    few = records[:100]
    again = exact_records(body, few["pose"], few["betas"], few["transl"], few["intrinsics"], SIZE)
    for field in ("joints29", "joints29_px", "twists"):
        np.testing.assert_allclose(few[field], again[field], atol=1e-3, err_msg=field)
    assert all(np.isfinite(records[field]).all() for field in ("pose", "betas", "transl", "joints29_px", "twists"))


def test_kinds_come_as_often_as_they_should(pseudo):
    _, kinds = pseudo
    frequency = np.bincount(kinds, minlength=4) / COUNT
    np.testing.assert_allclose(frequency, KIND_ODDS, atol=3.5 * np.sqrt(0.25 / COUNT) * 0.7)
    assert (frequency > 0).all()


def test_every_label_is_wrong_and_gross_failures_are_worst(pseudo, truth):
    records, kinds = pseudo
    error = root_relative_error(records, truth).mean(axis=1)
    assert error.min() > 0.003
    assert 0.03 < error[kinds == MILD].mean() < 0.12
    assert error[kinds == GROSS].mean() > 2.5 * error[kinds == MILD].mean()
    mild = error[kinds == MILD]
    assert np.quantile(mild, 0.9) > 3 * np.quantile(mild, 0.1)  # of varying magnitude


def test_mistakes_without_noise(monkeypatch, body, bank, truth):
    """With the noise off, a flipped limb keeps its picture nearly and a swapped one its other side's direction."""
    monkeypatch.setattr("adhmr.data.synthetic.labels.NOISE_LEVEL", (1e-5, 1.1e-5))
    monkeypatch.setattr("adhmr.data.synthetic.labels.BETAS_NOISE", 0.0)
    monkeypatch.setattr("adhmr.data.synthetic.labels.DEPTH_NOISE", 0.0)
    monkeypatch.setattr("adhmr.data.synthetic.labels.PIXEL_NOISE", 0.0)
    records, kinds = pseudo_labels([generator_for(1, row) for row in range(COUNT)], WILD, bank, body, truth)
    error = root_relative_error(records, truth)
    assert error[kinds == MILD].max() < 1e-3

    flipped = error[kinds == DEPTH_FLIPPED]
    assert flipped[:, [0, 1, 2, 3, 6, 9, 12, 15, 16, 17]].max() < 2e-3  # the trunk stays
    wrong = (records["joints29"] - truth["joints29"])[kinds == DEPTH_FLIPPED]
    assert np.abs(wrong[:, [20, 21, 7, 8], 2]).max(axis=1).mean() > 0.1
    assert np.abs(wrong[:, [18, 19, 20, 21, 4, 5, 7, 8], :2]).max() < 0.02

    swapped = kinds == SWAPPED
    label, true = records["joints29"][swapped], truth["joints29"][swapped]
    for left, right, parent_left, parent_right in ((20, 21, 18, 19), (7, 8, 4, 5)):
        exchanged = error[swapped][:, [left, right]].max(axis=1) > 1e-3
        assert exchanged.any()
        bone = label[exchanged, left] - label[exchanged, parent_left]
        wanted = true[exchanged, right] - true[exchanged, parent_right]
        cosine = (bone * wanted).sum(-1) / np.linalg.norm(bone, axis=-1) / np.linalg.norm(wanted, axis=-1)
        assert cosine.min() > 0.999
