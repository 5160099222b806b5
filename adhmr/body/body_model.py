"""The body model: rotations and shape in, vertices and 29 joints out, through smplx's linear blend skinning.

Also the joint regressors that belong to one body. Reading files is in body_file.py, the joint tree in kinematics.py.
"""

import contextlib
import hashlib
import io
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import smplx
import torch
from smplx.utils import Struct
from torch import Tensor, nn

from adhmr.body.body_file import SMPL_FORMAT, load_body_file
from adhmr.body.kinematics import forward_kinematics
from adhmr.body.restricted_pickle import array_of, read_pickle
from adhmr.body.skeleton import NUM_BODY_JOINTS
from adhmr.body.smplx_file import SMPLX_FORMAT
from adhmr.errors import AdhmrError

_FACE_NAMES = ("nose", "reye", "leye", "rear", "lear")


def open_body_path() -> Path:
    """The body file that comes with the package."""
    return Path(str(files("adhmr") / "assets" / "open_body.npz"))


def body_hash(path: str | Path | None) -> str:
    """First 16 hex digits of the SHA-256 of a body file (None: the open body): its name in provenance records.

    Raises AdhmrError when the file is missing.
    """
    path = open_body_path() if path is None else Path(path)
    if not path.is_file():
        raise AdhmrError(f"{path}: no such body file; give an SMPL-format .npz or .pkl, or none for the open body")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


class BodyOutput(NamedTuple):
    """A posed body, in metres."""

    vertices: Tensor  # (B, V, 3)
    joints29: Tensor  # (B, 29, 3)


class BodyModel(nn.Module):
    """A body in SMPL's format (Loper et al. 2015) with the five leaf points of the 29-joint skeleton.

    Args:
        path: an SMPL-format .npz or .pkl; None for the open body of the package.

    Attributes:
        body_id: names the mesh topology; a joint regressor must name the same.
        faces: (F, 3) int64 numpy.
        extra_vertices: vertex ids of nose, eyes, ears, toes, heels and finger tips by smplx's names; may be empty.
        file_components: how many components of shape the file holds; the first ten are used.

    Raises:
        AdhmrError: see `load_body_file`.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        super().__init__()
        arrays = load_body_file(open_body_path() if path is None else path)
        self.body_id: str = arrays["body_id"]
        self.faces: np.ndarray = arrays["f"]
        self.extra_vertices: dict[str, int] = arrays["extra_vertices"]
        self.file_components: int = arrays["shapedirs"].shape[2]
        self.coco17: JointRegressor | None = None
        if "coco17_regressor" in arrays:
            self.coco17 = JointRegressor(arrays["coco17_regressor"], self.body_id)

        keys = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table", "f")
        # smplx gathers its own extra joints, which are not used here; ids of another mesh would make it fail.
        unused_ids = dict.fromkeys(_FACE_NAMES, 0)
        with contextlib.redirect_stdout(io.StringIO()):  # smplx prints that the file has few shape components
            self.layer = smplx.SMPLLayer(
                model_path="",
                data_struct=Struct(**{key: arrays[key] for key in keys}),
                vertex_ids=unused_ids,
                use_hands=False,
                use_feet_keypoints=False,
            )
        self._register_joint_matrices(arrays)

    def _register_joint_matrices(self, arrays: dict[str, np.ndarray]) -> None:
        """What the 24 joints and the 5 leaf vertices need of the mesh, so that joints cost no pass over the mesh."""
        leaves = arrays["leaf_vertices"]
        regressor = arrays["J_regressor"].astype(np.float64)
        shapedirs = arrays["shapedirs"][..., :10].astype(np.float64)
        rest = np.concatenate([regressor @ arrays["v_template"], arrays["v_template"][leaves]])
        joint_shapedirs = np.tensordot(regressor, shapedirs, 1)
        directions = np.concatenate([joint_shapedirs, shapedirs[leaves]])  # (29, 3, 10)
        posedirs = arrays["posedirs"][leaves].reshape(len(leaves) * 3, -1).T  # (207, 15)
        for name, value in (
            ("_rest_template", rest),
            ("_rest_shapedirs", directions),
            ("_leaf_posedirs", posedirs),
            ("_leaf_weights", arrays["weights"][leaves]),
        ):
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(value, np.float32)), persistent=False)
        self.register_buffer("leaf_vertices", torch.from_numpy(leaves), persistent=False)

    @property
    def num_vertices(self) -> int:
        return len(self.layer.v_template)

    @property
    def v_template(self) -> Tensor:
        """The mean body in its rest pose, (V, 3) metres."""
        return self.layer.v_template

    def forward(self, rotations: Tensor, betas: Tensor, transl: Tensor | None = None) -> BodyOutput:
        """Pose the whole mesh. Memory grows with B * V: callers cut large batches.

        Args:
            rotations: (B, 24, 3, 3) local rotation matrices, the root's first.
            betas: (B, 10), or (1, 10) for all.
            transl: (B, 3) metres, added to everything.
        """
        betas = betas.expand(len(rotations), -1)
        posed = self.layer(
            betas=betas, global_orient=rotations[:, :1], body_pose=rotations[:, 1:], transl=transl, pose2rot=False
        )
        leaves = posed.vertices[:, self.leaf_vertices]
        return BodyOutput(posed.vertices, torch.cat([posed.joints[:, :NUM_BODY_JOINTS], leaves], dim=1))

    def rest_joints29(self, betas: Tensor) -> Tensor:
        """Joints of the shaped, unposed body: betas (B, 10) -> (B, 29, 3) metres."""
        return self._rest_template + torch.einsum("jck,bk->bjc", self._rest_shapedirs, betas)

    def joints29(self, rotations: Tensor, betas: Tensor, transl: Tensor | None = None) -> Tensor:
        """The joints of `forward` without its mesh: only the five leaf vertices are skinned.

        Args:
            rotations: (B, 24, 3, 3) local rotation matrices.
            betas: (B, 10), or (1, 10) for all.
            transl: (B, 3) metres.

        Returns:
            (B, 29, 3) metres.
        """
        batch = len(rotations)
        rest = self.rest_joints29(betas.expand(batch, -1))
        global_rotations, joints = forward_kinematics(rotations, rest)
        rest_body, rest_leaves = rest[:, :NUM_BODY_JOINTS], rest[:, NUM_BODY_JOINTS:]

        identity = torch.eye(3, dtype=rotations.dtype, device=rotations.device)
        pose_features = (rotations[:, 1:] - identity).reshape(batch, -1)  # (B, 207)
        leaves = rest_leaves + (pose_features @ self._leaf_posedirs).view(batch, -1, 3)
        # Each joint carries the leaf as R_j (v - rest_j) + posed_j; skinning is the weighted mean of these.
        offsets = joints - (global_rotations @ rest_body.unsqueeze(-1)).squeeze(-1)  # (B, 24, 3)
        blended_rotations = torch.einsum("lj,bjrc->blrc", self._leaf_weights, global_rotations)
        skinned = (blended_rotations @ leaves.unsqueeze(-1)).squeeze(-1) + self._leaf_weights @ offsets
        posed = torch.cat([joints, skinned], dim=1)
        return posed if transl is None else posed + transl.unsqueeze(1)


class _Mesh(Protocol):
    """What a regressor must know of a body: of BodyModel and SmplxBody alike."""

    body_id: str

    @property
    def num_vertices(self) -> int: ...


_BARE_REGRESSORS = {body.num_vertices: body.body_id for body in (SMPL_FORMAT, SMPLX_FORMAT)}


class JointRegressor:
    """Joints as fixed linear combinations of the vertices of one mesh.

    Args:
        matrix: (J, V).
        body_id: the topology that the matrix was made for.
    """

    def __init__(self, matrix: np.ndarray | Tensor, body_id: str) -> None:
        self.matrix = torch.as_tensor(matrix, dtype=torch.float32)  # (J, V)
        self.body_id = body_id

    @classmethod
    def load(cls, path: str | Path, body: _Mesh) -> "JointRegressor":
        """Read a regressor for `body`.

        Either an .npz with `regressor` (J, V) and `body_id`, or a bare matrix in an .npy or .pkl as the official sites
        give them, dense or sparse: its body is known by the number of vertices, SMPL's or SMPL-X's.

        Raises:
            AdhmrError: no such file, other contents, or a regressor that was made for another body.
        """
        path = Path(path)
        if not path.is_file():
            raise AdhmrError(f"{path}: no such joint regressor")
        body_id = None
        try:
            if path.suffix == ".pkl":
                matrix = array_of(path, "regressor", read_pickle(path))
            elif path.suffix == ".npz":
                content = np.load(path, allow_pickle=False)
                matrix, body_id = content["regressor"], str(content["body_id"])
            else:
                matrix = np.load(path, allow_pickle=False)
            matrix = np.asarray(matrix, np.float32)
        except AdhmrError:
            raise
        except Exception as error:  # zip, header, missing-key errors alike
            raise AdhmrError(
                f"{path}: expected an .npz with 'regressor' and 'body_id', or a matrix in an .npy or .pkl ({error})"
            ) from error
        if matrix.ndim != 2:
            raise AdhmrError(f"{path}: a joint regressor has shape (joints, vertices), not {matrix.shape}")
        num_vertices = matrix.shape[1]
        regressor = cls(matrix, body_id or _BARE_REGRESSORS.get(num_vertices, f"unnamed-{num_vertices}"))
        try:
            regressor.check(body)
        except AdhmrError as error:
            raise AdhmrError(f"{path}: {error}") from error
        return regressor

    def check(self, body: _Mesh) -> None:
        """Raise AdhmrError unless this regressor was made for `body`."""
        if self.body_id != body.body_id or self.matrix.shape[1] != body.num_vertices:
            raise AdhmrError(
                f"this joint regressor was made for body '{self.body_id}' ({self.matrix.shape[1]} vertices), but the "
                f"body in use is '{body.body_id}' ({body.num_vertices} vertices); use a regressor made for it"
            )

    def __call__(self, vertices: Tensor) -> Tensor:
        """vertices (..., V, 3) -> joints (..., J, 3), in the vertices' unit.

        Raises:
            AdhmrError: vertices of a mesh with another number of vertices.
        """
        if vertices.shape[-2] != self.matrix.shape[1]:
            raise AdhmrError(
                f"a joint regressor for body '{self.body_id}' ({self.matrix.shape[1]} vertices) "
                f"was given {vertices.shape[-2]} vertices"
            )
        return self.matrix.to(vertices) @ vertices
