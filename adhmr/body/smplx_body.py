"""The SMPL-X body: 55 rotations, shape and expression in, vertices, its 55 joints and the 29 of the skeleton out.

Also the two ways of reading the 29-joint skeleton off it. Reading files is in smplx_file.py, SMPL in body_model.py.
"""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import roma
import torch
from smplx.joint_names import JOINT_NAMES as SMPLX_JOINT_NAMES
from smplx.lbs import lbs
from torch import Tensor, nn

from adhmr.body.skeleton import JOINT_NAMES
from adhmr.body.smplx_file import NUM_COMPONENTS, NUM_SKELETON_JOINTS, SMPLX_FORMAT, load_smplx_file
from adhmr.errors import AdhmrError

JointMap = Literal["smpl", "official"]

_LEAVES = ("head_top", "left_middle", "right_middle", "left_big_toe", "right_big_toe")
_THUMBS = {"left_thumb": "lthumb", "right_thumb": "rthumb"}  # name of the point -> smplx's name of the vertex
_TIPS_AND_TOES = _LEAVES[1:]

JOINT_MAPS: dict[JointMap, tuple[str, ...]] = {
    # The same points as on SMPL's body. SMPL-X has no hand joint; SMPL's lies at the finger bases, so the first joint
    # of the middle finger stands for it, which is an approximation.
    "smpl": (*JOINT_NAMES[:NUM_SKELETON_JOINTS], "left_middle1", "right_middle1", "head_top", *_TIPS_AND_TOES),
    # What the official HMR-Scorer was trained on: for head, hands and head top, it takes other points.
    "official": (*JOINT_NAMES[:15], "jaw", *JOINT_NAMES[16:NUM_SKELETON_JOINTS], *_THUMBS, "head", *_TIPS_AND_TOES),
}
"""Where joints 0 to 28 come from: names of smplx's joint list, tips and toes being vertices, and `head_top`."""

NUM_ROTATIONS = len(SMPLX_FORMAT.parents)
"""Pelvis and 21 body joints, jaw, left and right eye, 15 joints of the left hand, 15 of the right."""
_POSE_PARTS = (3 + 63, 45, 45, 3)
"""A pose vector: root and body, left hand, right hand, jaw."""
NUM_POSE = sum(_POSE_PARTS)


class SmplxOutput(NamedTuple):
    """A posed SMPL-X body, in metres."""

    vertices: Tensor  # (B, V, 3)
    joints55: Tensor  # (B, 55, 3)
    joints29: Tensor  # (B, 29, 3)


class SmplxBody(nn.Module):
    """A body in SMPL-X's format (Pavlakos et al. 2019).

    The skinning is smplx's. Its SMPLXLayer, which gives the same numbers, opens its file by itself and runs whatever
    the pickled objects in it say; here the arrays are read first (smplx_file.py).

    Args:
        path: an SMPL-X .npz or .pkl.
        joint_map: where the 29 joints come from: "smpl", as on an SMPL body, or "official", for the official scorer.

    Attributes:
        body_id: names the mesh topology; a joint regressor must name the same.
        faces: (F, 3) int64 numpy.
        point_vertices: vertex ids of the points in `JOINT_MAPS` that are no joints, as far as they are known.
        file_components: how many components of shape and of expression the file holds; ten of each are used.

    Raises:
        AdhmrError: see `load_smplx_file`; an unknown joint map, or one whose vertices the file does not name.
    """

    def __init__(self, path: str | Path, joint_map: JointMap = "smpl") -> None:
        super().__init__()
        if joint_map not in JOINT_MAPS:
            raise AdhmrError(f"unknown joint map '{joint_map}' of SMPL-X; expected {' or '.join(JOINT_MAPS)}")
        arrays = load_smplx_file(path)
        self.body_id: str = arrays["body_id"]
        self.faces: np.ndarray = arrays["f"]
        self.file_components: tuple[int, int] = arrays["file_components"]
        named = arrays["extra_vertices"]
        self.point_vertices: dict[str, int] = dict(zip(_LEAVES, arrays["leaf_vertices"].tolist(), strict=True)) | {
            point: named[vertex] for point, vertex in _THUMBS.items() if vertex in named
        }
        points = [*SMPLX_JOINT_NAMES[:NUM_ROTATIONS], *self.point_vertices]
        unknown = [_THUMBS[name] for name in JOINT_MAPS[joint_map] if name not in points]
        if unknown:
            raise AdhmrError(
                f"{path}: the joint map '{joint_map}' needs the vertices {', '.join(unknown)}: name them in "
                "'extra_vertex_names' and 'extra_vertex_ids', or use the map 'smpl'"
            )
        self._joint_points = [points.index(name) for name in JOINT_MAPS[joint_map]]

        num_vertices = len(arrays["v_template"])
        for name, value in (
            ("v_template", arrays["v_template"]),
            ("shapedirs", np.concatenate([arrays["shapedirs"], arrays["expression_dirs"]], axis=2)),  # (V, 3, 20)
            ("posedirs", arrays["posedirs"].reshape(num_vertices * 3, -1).T),  # (486, 3 V)
            ("joint_regressor", arrays["J_regressor"]),
            ("weights", arrays["weights"]),
            ("parents", arrays["kintree_table"][0]),
            ("mean_hands", arrays["mean_hands"]),  # (2, 45)
            ("_point_ids", np.array(list(self.point_vertices.values()))),
        ):
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(value)), persistent=False)

    @property
    def num_vertices(self) -> int:
        return len(self.v_template)

    def rest_joints29(self, betas: Tensor) -> Tensor:
        """(B, 29, 3) joints of the unposed body with a calm face; betas (B, 10)."""
        return self(torch.eye(3).expand(len(betas), NUM_ROTATIONS, 3, 3), betas, torch.zeros_like(betas)).joints29

    def rotations_of_pose(self, pose: Tensor) -> Tensor:
        """Rotation matrices of a pose vector, as the HMR-Scorer's data give it.

        Args:
            pose: (B, 159) axis-angle, radians: root 3, body 63, left hand 45, right hand 45, jaw 3. The hands are
                relative to the file's mean hands, as in smplx without `flat_hand_mean`; subtract `mean_hands` from
                hands that are not (BEDLAM's).

        Returns:
            (B, 55, 3, 3) for `forward`; the eyes look ahead.
        """
        body, left, right, jaw = pose.split(_POSE_PARTS, dim=1)
        eyes = pose.new_zeros(len(pose), 6)
        mean_left, mean_right = self.mean_hands
        rotvecs = torch.cat([body, jaw, eyes, left + mean_left, right + mean_right], dim=1)
        return roma.rotvec_to_rotmat(rotvecs.view(-1, NUM_ROTATIONS, 3))

    def forward(
        self, rotations: Tensor, betas: Tensor, expression: Tensor | None = None, transl: Tensor | None = None
    ) -> SmplxOutput:
        """Pose the whole mesh. Memory grows with B * V: callers cut large batches.

        Args:
            rotations: (B, 55, 3, 3) local rotation matrices in SMPL-X's joint order, the root's first.
            betas: (B, 10), or (1, 10) for all.
            expression: likewise; None for a neutral face.
            transl: (B, 3) metres, added to everything.
        """
        batch = len(rotations)
        if expression is None:
            expression = betas.new_zeros(1, NUM_COMPONENTS)
        components = torch.cat([betas.expand(batch, -1), expression.expand(batch, -1)], dim=1)
        vertices, joints55 = lbs(
            components,
            rotations.contiguous(),
            self.v_template,
            self.shapedirs,
            self.posedirs,
            self.joint_regressor,
            self.parents,
            self.weights,
            pose2rot=False,
        )
        if transl is not None:
            vertices, joints55 = vertices + transl[:, None], joints55 + transl[:, None]
        return SmplxOutput(vertices, joints55, self._joints29(vertices, joints55))

    def joints29_of_mesh(self, vertices: Tensor) -> Tensor:
        """(B, 29, 3) of meshes (B, V, 3) whose pose is not known: the regressor of the rest pose, used on a posed body,
        is off by some millimetres at bent joints."""
        return self._joints29(vertices, self.joint_regressor @ vertices)

    def _joints29(self, vertices: Tensor, joints55: Tensor) -> Tensor:
        points = torch.cat([joints55, vertices[:, self._point_ids]], dim=1)
        return points[:, self._joint_points]
