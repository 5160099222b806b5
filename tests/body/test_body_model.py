"""The body model: equality with the reference numbers, the cheap joints, the open body and joint regressors."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import roma
import torch

from adhmr.body import BodyModel, JointRegressor
from adhmr.body.skeleton import FLIP_JOINTS, JOINT_NAMES
from adhmr.errors import AdhmrError


@pytest.fixture(scope="module")
def open_body() -> BodyModel:
    return BodyModel()


@pytest.fixture(scope="module")
def draw() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    rotations = roma.rotvec_to_rotmat(0.5 * torch.randn(7, 24, 3, generator=generator))
    return rotations, torch.randn(7, 10, generator=generator), torch.randn(7, 3, generator=generator)


def test_skinning_equals_reference(reference_dir: Path) -> None:
    reference = np.load(reference_dir / "smpl_ik.npz")
    body = BodyModel(reference_dir / "mannequin_smpl.npz")
    rotations = roma.rotvec_to_rotmat(torch.from_numpy(reference["pose"]).view(-1, 24, 3))
    posed = body(rotations, torch.from_numpy(reference["betas"]))
    regressor = JointRegressor(np.load(reference_dir / "mannequin_smpl.npz")["J_regressor_h36m"], "smpl")
    regressor.check(body)
    for value, key in (
        (rotations, "lbs_rotmats"),
        (posed.vertices[:, reference["vertex_ids"]], "lbs_vertices"),
        (posed.joints29, "lbs_joints29"),
        (regressor(posed.vertices), "lbs_joints17"),
    ):
        expected = reference[key]
        assert np.abs(value.numpy() - expected).max() < 1e-4 * np.abs(expected).max(), key


@pytest.mark.parametrize("with_translation", [False, True])
def test_cheap_joints_equal_those_of_the_mesh(open_body: BodyModel, draw: tuple, with_translation: bool) -> None:
    rotations, betas, transl = draw
    transl = transl if with_translation else None
    expected = open_body(rotations, betas, transl).joints29
    torch.testing.assert_close(open_body.joints29(rotations, betas, transl), expected, atol=1e-5, rtol=0)


def test_one_shape_serves_a_batch(open_body: BodyModel, draw: tuple) -> None:
    rotations, betas, _ = draw
    repeated = open_body(rotations, betas[:1].repeat(7, 1))
    torch.testing.assert_close(open_body(rotations, betas[:1]), repeated)
    torch.testing.assert_close(open_body.joints29(rotations, betas[:1]), repeated.joints29, atol=1e-5, rtol=0)


def test_rest_joints_are_those_of_the_unposed_mesh(open_body: BodyModel, draw: tuple) -> None:
    betas = draw[1]
    rest = open_body(torch.eye(3).expand(7, 24, 3, 3), betas)
    torch.testing.assert_close(open_body.rest_joints29(betas), rest.joints29, atol=1e-5, rtol=0)
    torch.testing.assert_close(rest.joints29[:, 24:], rest.vertices[:, open_body.leaf_vertices])


def test_translation_moves_everything(open_body: BodyModel, draw: tuple) -> None:
    rotations, betas, transl = draw
    still, moved = open_body(rotations, betas), open_body(rotations, betas, transl)
    torch.testing.assert_close(moved.vertices, still.vertices + transl[:, None], atol=1e-5, rtol=0)
    torch.testing.assert_close(moved.joints29, still.joints29 + transl[:, None], atol=1e-5, rtol=0)


def test_open_body_is_a_person(open_body: BodyModel) -> None:
    """SMPL's rest pose: y up, facing +z, arms along x, the person's left on +x; and leaves where they belong."""
    rest = dict(zip(JOINT_NAMES, open_body.rest_joints29(torch.zeros(1, 10))[0], strict=True))
    height = float(np.ptp(open_body.v_template[:, 1].numpy()))
    assert 1.5 < height < 1.9
    top = open_body.v_template[:, 1].max()
    assert abs(rest["head_top"][1] - top) < 0.01
    assert rest["left_middle_tip"][0] > open_body.v_template[:, 0].max() - 0.01
    assert rest["right_middle_tip"][0] < open_body.v_template[:, 0].min() + 0.01
    assert rest["left_big_toe"][2] > rest["left_foot"][2] > rest["left_ankle"][2]
    assert rest["left_hip"][0] > 0 > rest["right_hip"][0]
    arm = rest["left_wrist"] - rest["left_shoulder"]
    assert arm[0] / arm.norm() > 0.99
    nose = open_body.v_template[open_body.extra_vertices["nose"]]
    assert nose[2] > rest["head"][2] and abs(nose[0]) < 0.01


def test_open_body_is_nearly_symmetric(open_body: BodyModel) -> None:
    rest = open_body.rest_joints29(torch.zeros(1, 10))[0]
    mirrored = rest[list(FLIP_JOINTS)] * torch.tensor([-1.0, 1.0, 1.0])
    assert (rest - mirrored).norm(dim=-1).max() < 0.02


def test_coco_regressor_finds_the_limbs(open_body: BodyModel, draw: tuple) -> None:
    posed = open_body(*draw)
    coco = open_body.coco17(posed.vertices)
    assert coco.shape == (7, 17, 3)
    parts = ("elbow", "wrist", "knee", "ankle")
    ours = [JOINT_NAMES.index(f"{side}_{part}") for part in parts for side in ("left", "right")]
    distance = (coco[:, [7, 8, 9, 10, 13, 14, 15, 16]] - posed.joints29[:, ours]).norm(dim=-1)
    assert distance.max() < 0.06


def test_construction_prints_nothing(capsys: pytest.CaptureFixture) -> None:
    BodyModel()
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err == ""


def test_gradients_reach_pose_and_shape(open_body: BodyModel, draw: tuple) -> None:
    rotations, betas, _ = (tensor.clone().requires_grad_() for tensor in draw)
    open_body.joints29(rotations, betas).square().sum().backward()
    assert rotations.grad.abs().amax((0, 2, 3))[:22].min() > 0 and betas.grad.abs().sum() > 0


def test_regressor_for_another_body_is_refused(open_body: BodyModel, tmp_path: Path) -> None:
    np.save(tmp_path / "J_regressor_h36m.npy", np.ones((17, 6890), np.float32))
    with pytest.raises(AdhmrError, match=r"made for body 'smpl'.*open-body"):
        JointRegressor.load(tmp_path / "J_regressor_h36m.npy", open_body)
    np.savez(tmp_path / "same_size.npz", regressor=np.ones((17, open_body.num_vertices)), body_id="other")
    with pytest.raises(AdhmrError, match="made for body 'other'"):
        JointRegressor.load(tmp_path / "same_size.npz", open_body)
    with pytest.raises(AdhmrError, match="given 12 vertices"):
        open_body.coco17(torch.zeros(1, 12, 3))


def test_regressor_of_the_right_body_loads(open_body: BodyModel, tmp_path: Path) -> None:
    matrix = np.zeros((2, open_body.num_vertices), np.float32)
    matrix[0, 3], matrix[1, 5] = 1, 1
    np.savez(tmp_path / "two.npz", regressor=matrix, body_id=open_body.body_id)
    joints = JointRegressor.load(tmp_path / "two.npz", open_body)(open_body.v_template)
    torch.testing.assert_close(joints, open_body.v_template[[3, 5]])


@pytest.mark.parametrize("name", ["nowhere.npy", "junk.npz", "line.npy", "junk.pkl", "hostile.pkl", "text.pkl"])
def test_unreadable_regressors(open_body: BodyModel, tmp_path: Path, name: str) -> None:
    (tmp_path / "junk.npz").write_bytes(b"PK no")
    np.save(tmp_path / "line.npy", np.ones(3))
    (tmp_path / "junk.pkl").write_bytes(b"no pickle")
    (tmp_path / "hostile.pkl").write_bytes(b"cbuiltins\neval\n(S'1/0'\ntR.")
    (tmp_path / "text.pkl").write_bytes(pickle.dumps("a text"))
    with pytest.raises(AdhmrError, match=name):
        JointRegressor.load(tmp_path / name, open_body)


def test_mirrored_pose_gives_the_mirrored_mesh(open_body: BodyModel, draw: tuple) -> None:
    """The open body is symmetric, so flipping an image and its labels together is exact."""
    _, betas, transl = draw
    rotvecs = 0.4 * torch.randn(7, 24, 3, generator=torch.Generator().manual_seed(3))
    mirror = torch.tensor([-1.0, 1.0, 1.0])
    mirrored_rotvecs = rotvecs[:, list(FLIP_JOINTS[:24])] * torch.tensor([1.0, -1.0, -1.0])
    posed = open_body(roma.rotvec_to_rotmat(rotvecs), betas, transl)
    mirrored = open_body(roma.rotvec_to_rotmat(mirrored_rotvecs), betas, transl * mirror)
    torch.testing.assert_close(mirrored.joints29, posed.joints29[:, list(FLIP_JOINTS)] * mirror, atol=1e-3, rtol=0)
    template = open_body.v_template
    distances = torch.cdist(template * mirror, template, compute_mode="donot_use_mm_for_euclid_dist")
    assert distances.min(dim=1).values.max() < 1e-6
    opposite = distances.argmin(dim=1)
    torch.testing.assert_close(mirrored.vertices, posed.vertices[:, opposite] * mirror, atol=1e-3, rtol=0)
