"""The SMPL-X body: equality with smplx's own layers, both joint maps, agreement with SMPL, its joint regressor."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import roma
import scipy.sparse
import smplx
import torch
from smplx.joint_names import JOINT_NAMES as SMPLX_JOINT_NAMES

from adhmr.body import BodyModel, JointRegressor, SmplxBody
from adhmr.body.describe import describe
from adhmr.body.skeleton import JOINT_NAMES
from adhmr.body.smplx_body import JOINT_MAPS, NUM_POSE
from adhmr.errors import AdhmrError
from tests.body.made_files import made_smpl, made_smplx

# Of the 144 joints of smplx: 29 by the official scorer's name map.
OFFICIAL_144 = [*range(15), 22, *range(16, 22), 66, 71, 15, 68, 73, 60, 63]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    np.savez(tmp_path / "small.npz", **made_smplx())
    return tmp_path / "small.npz"


@pytest.fixture(scope="module")
def official_body(official_smplx: Path) -> SmplxBody:
    return SmplxBody(official_smplx, "official")


@pytest.fixture
def draw() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "rotations": roma.rotvec_to_rotmat(0.4 * normal(3, 55, 3)),
        "betas": normal(3, 10),
        "expression": normal(3, 10),
        "transl": normal(3, 3),
    }


def test_the_official_map_is_the_one_of_the_144_joints() -> None:
    assert [SMPLX_JOINT_NAMES.index(name) for name in JOINT_MAPS["official"]] == OFFICIAL_144


def test_the_smpl_map_is_the_skeleton() -> None:
    points = JOINT_MAPS["smpl"]
    assert points[:22] == JOINT_NAMES[:22] == tuple(SMPLX_JOINT_NAMES[:22])
    assert [SMPLX_JOINT_NAMES.index(name) for name in points[22:24]] == [28, 43]
    assert points[24] == "head_top"
    assert [SMPLX_JOINT_NAMES.index(name) for name in points[25:]] == [68, 73, 60, 63]


@pytest.mark.parametrize("part", ["everything", "rotations and shape only"])
def test_equals_the_layer_of_smplx(official_body: SmplxBody, official_smplx: Path, draw: dict, part: str) -> None:
    if part != "everything":
        del draw["expression"], draw["transl"]
    layer = smplx.SMPLXLayer(str(official_smplx), use_face_contour=True)
    rotations = draw["rotations"]
    expected = layer(
        betas=draw["betas"],
        expression=draw.get("expression"),
        transl=draw.get("transl"),
        global_orient=rotations[:, :1],
        body_pose=rotations[:, 1:22],
        jaw_pose=rotations[:, 22:23],
        leye_pose=rotations[:, 23:24],
        reye_pose=rotations[:, 24:25],
        left_hand_pose=rotations[:, 25:40],
        right_hand_pose=rotations[:, 40:],
    )
    assert expected.joints.shape == (3, 144, 3)
    posed = official_body(**draw)
    torch.testing.assert_close(posed.vertices, expected.vertices, atol=1e-6, rtol=0)
    torch.testing.assert_close(posed.joints55, expected.joints[:, :55], atol=1e-6, rtol=0)
    torch.testing.assert_close(posed.joints29, expected.joints[:, OFFICIAL_144], atol=1e-6, rtol=0)


def test_pose_vector_means_what_it_means_to_smplx(official_body: SmplxBody, official_smplx: Path, draw: dict) -> None:
    pose = 0.4 * torch.randn(3, NUM_POSE, generator=torch.Generator().manual_seed(1))
    assert NUM_POSE == 159
    reference = smplx.SMPLX(str(official_smplx), use_pca=False, batch_size=3)
    expected = reference(
        global_orient=pose[:, :3],
        body_pose=pose[:, 3:66],
        left_hand_pose=pose[:, 66:111],
        right_hand_pose=pose[:, 111:156],
        jaw_pose=pose[:, 156:],
        betas=draw["betas"],
        expression=draw["expression"],
        transl=draw["transl"],
    )
    posed = official_body(official_body.rotations_of_pose(pose), draw["betas"], draw["expression"], draw["transl"])
    torch.testing.assert_close(posed.vertices, expected.vertices, atol=1e-5, rtol=0)


def test_body_joints_agree_with_those_of_smpl(tmp_path: Path, small: Path, draw: dict) -> None:
    """Joints 0 to 14 and 16 to 21 follow from the rest joints and the rotations alone, whatever the mesh."""
    of_x = made_smplx()
    of_smpl = made_smpl(60)
    of_smpl["v_template"], of_smpl["shapedirs"] = of_x["v_template"], of_x["shapedirs"][..., :10]
    of_smpl["J_regressor"] = np.concatenate([of_x["J_regressor"][:22], of_smpl["J_regressor"][22:]])
    np.savez(tmp_path / "smpl.npz", **of_smpl)
    expected = BodyModel(tmp_path / "smpl.npz")(draw["rotations"][:, :24], draw["betas"]).joints29
    same = [*range(15), *range(16, 22)]
    for joint_map in JOINT_MAPS:
        joints29 = SmplxBody(small, joint_map)(draw["rotations"], draw["betas"]).joints29
        torch.testing.assert_close(joints29[:, same], expected[:, same], atol=1e-5, rtol=0)
        agree = torch.allclose(joints29[:, 15], expected[:, 15], atol=1e-5)
        assert agree == (joint_map == "smpl")  # 15 is the head joint only by the map for new training


def test_own_vertices_of_another_mesh(small: Path, draw: dict) -> None:
    posed = SmplxBody(small)(**draw)
    torch.testing.assert_close(posed.joints29[:, 22:24], posed.joints55[:, [28, 43]])
    torch.testing.assert_close(posed.joints29[:, 24:], posed.vertices[:, 5:10])
    official = SmplxBody(small, "official")(**draw)
    torch.testing.assert_close(official.joints29[:, [22, 23]], official.vertices[:, [3, 4]])
    torch.testing.assert_close(official.joints29[:, [15, 24]], official.joints55[:, [22, 15]])
    torch.testing.assert_close(official.joints29[:, 25:], official.vertices[:, 6:10])


def test_head_top_of_the_official_mesh_is_its_highest_vertex(official_smplx: Path) -> None:
    body = SmplxBody(official_smplx)
    rest = body(torch.eye(3).expand(1, 55, 3, 3), torch.zeros(1, 10))
    assert rest.joints29[0, 24, 1] == rest.vertices[0, :, 1].max()


def test_one_shape_serves_a_batch_and_gradients_pass(small: Path, draw: dict) -> None:
    body = SmplxBody(small)
    rotations, betas = draw["rotations"].clone().requires_grad_(), draw["betas"][:1].clone().requires_grad_()
    posed = body(rotations, betas)
    torch.testing.assert_close(posed.vertices, body(rotations, betas.repeat(3, 1)).vertices)
    posed.joints29.square().sum().backward()
    assert rotations.grad.abs().sum() > 0 and betas.grad.abs().sum() > 0


def test_thumbs_are_needed_by_the_official_map_only(tmp_path: Path) -> None:
    made = made_smplx()
    del made["extra_vertex_names"], made["extra_vertex_ids"]
    np.savez(tmp_path / "x.npz", **made)
    SmplxBody(tmp_path / "x.npz")
    with pytest.raises(AdhmrError, match=r"'official' needs the vertices lthumb, rthumb"):
        SmplxBody(tmp_path / "x.npz", "official")
    with pytest.raises(AdhmrError, match="unknown joint map 'coco'"):
        SmplxBody(tmp_path / "x.npz", "coco")
    assert "22 left_hand = left_thumb (not in this file)" in describe(tmp_path / "x.npz")


@pytest.mark.parametrize("layout", ["dense", "sparse"])
def test_joint_regressor_of_fourteen(
    tmp_path: Path, official_body: SmplxBody, small: Path, draw: dict, layout: str
) -> None:
    matrix = np.zeros((14, 10475))
    matrix[np.arange(14), np.arange(14) * 700] = 1
    path = tmp_path / "SMPLX_to_J14.pkl"
    path.write_bytes(pickle.dumps(scipy.sparse.csr_matrix(matrix) if layout == "sparse" else matrix, protocol=2))
    vertices = official_body(**draw).vertices
    joints = JointRegressor.load(path, official_body)(vertices)
    torch.testing.assert_close(joints, vertices[:, : 14 * 700 : 700])
    with pytest.raises(AdhmrError, match=r"J14\.pkl: .*made for body 'smplx'.*'small-x'"):
        JointRegressor.load(path, SmplxBody(small))
    np.save(tmp_path / "J_regressor_h36m.npy", np.ones((17, 6890)))
    with pytest.raises(AdhmrError, match=r"made for body 'smpl'.*'smplx'"):
        JointRegressor.load(tmp_path / "J_regressor_h36m.npy", official_body)


def test_description_names_both_maps(official_smplx: Path, official_body: SmplxBody) -> None:
    text = describe(official_smplx)
    head_top = official_body.point_vertices["head_top"]
    for part in (
        "body 'smplx', 10475 vertices, 80 faces",
        "shape components: 10, expression components: 10",
        f"joint map 'smpl': SMPL-X's own joint, but 22 left_hand = left_middle1, 23 right_hand = right_middle1, "
        f"24 head_top = vertex {head_top}, 25 left_middle_tip = vertex 5058, ",
        "joint map 'official': SMPL-X's own joint, but 15 head = jaw, 22 left_hand = vertex 5361, "
        "23 right_hand = vertex 8079, 24 head_top = head, ",
    ):
        assert part in text, text
