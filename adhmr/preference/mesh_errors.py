"""The four errors of posed bodies against a target mesh: PVE, MPJPE, PA-PVE, PA-MPJPE, in metres. Works in chunks, so
that no (images x hypotheses) set of meshes is ever in memory; the geometry of each error is in adhmr.body.metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import roma
import torch
from torch import Tensor

from adhmr.body.body_model import BodyOutput, JointRegressor
from adhmr.body.hypotheses import Hypotheses
from adhmr.body.metrics import joint_error, pa_error, vertex_error
from adhmr.body.skeleton import H36M_14
from adhmr.preference.hypotheses import blocks

ERROR_NAMES = ("pve", "mpjpe", "pa_pve", "pa_mpjpe")
NUM_METRIC_JOINTS = 24  # joints "smpl24": the 24 skeleton joints, pelvis-aligned; no licensed regressor needed


class AnnotatedJoints(NamedTuple):
    """Joints "h36m14": Human3.6M's 17 joints of the posed mesh against those that the data set annotates. Errors are
    means over H36M_14."""

    regressor: JointRegressor  # of the 17 joints
    truth: Tensor  # (N, 17, 3) metres
    pa_joints: int  # that PA-MPJPE aligns: those 14 or all 17


@torch.no_grad()
def mesh_errors(
    body: Callable[[Tensor, Tensor], BodyOutput],
    rotations: Tensor,
    betas: Tensor,
    target_rotations: Tensor,
    target_betas: Tensor,
    names: Sequence[str] = ERROR_NAMES,
    chunk: int = 64,
    annotated: AnnotatedJoints | None = None,
) -> Tensor:
    """Errors of M bodies an image against one target an image.

    Args:
        body: a VertexSubset (the vertex errors are over its vertices; of all, it is the fast one), or a BodyModel.
        rotations: (N, M, 24, 3, 3); betas: (N, M, 10), or (N, 10) when shared by the hypotheses.
        target_rotations: (N, 24, 3, 3); target_betas: (N, 10).
        names: which errors, of ERROR_NAMES.
        chunk: bodies posed at once.
        annotated: the joints of joint errors and the pelvis; None for the skeleton's own 24 joints of both meshes.

    Returns:
        (N, M, len(names)) metres: PVE and MPJPE after the pelvis joints are put on each other, PA errors after
        similarity Procrustes. PVE puts the pelvis of both meshes on each other, whatever is annotated.
    """
    counted = pa_counted = None if annotated is None else H36M_14
    pa_joints = slice(None)
    if annotated is not None and annotated.pa_joints == len(H36M_14):
        pa_joints, pa_counted = list(H36M_14), None
    number, count = rotations.shape[:2]
    if betas.dim() == 2:
        betas = betas[:, None].expand(-1, count, -1)
    errors = torch.empty(number, count, len(names), device=rotations.device)
    for rows, columns in blocks(number, count, chunk):
        if columns.start == 0:  # further blocks of these images have the same targets
            target_vertices, target_joints, target_pelvis = _target(
                body, target_rotations[rows], target_betas[rows], annotated, rows
            )
        some = rotations[rows, columns]  # (n, m, 24, 3, 3)
        posed = body(some.flatten(0, 1), betas[rows, columns].flatten(0, 1))
        vertices = posed.vertices.unflatten(0, some.shape[:2])  # (n, m, V, 3)
        if annotated is None:
            joints = posed.joints29[:, :NUM_METRIC_JOINTS].unflatten(0, some.shape[:2])  # (n, m, 24, 3)
        else:
            joints = annotated.regressor(vertices)  # (n, m, 17, 3)
        for index, name in enumerate(names):
            if name == "pve":
                error = vertex_error(vertices, target_vertices, joints[..., 0, :], target_pelvis)
            elif name == "mpjpe":
                error = joint_error(joints, target_joints, 0, counted)
            elif name == "pa_pve":
                error = pa_error(vertices, target_vertices)
            else:
                error = pa_error(joints[..., pa_joints, :], target_joints[..., pa_joints, :], pa_counted)
            errors[rows, columns, index] = error
    return errors


def _target(
    body: Callable[[Tensor, Tensor], BodyOutput],
    rotations: Tensor,
    betas: Tensor,
    annotated: AnnotatedJoints | None,
    rows: slice,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of n images, with an axis for their hypotheses: vertices (n, 1, V, 3), the joints that are compared (n, 1, J, 3)
    and the mesh's own pelvis (n, 1, 3)."""
    posed = body(rotations, betas)
    vertices = posed.vertices[:, None]
    if annotated is None:
        joints = posed.joints29[:, None, :NUM_METRIC_JOINTS]
        return vertices, joints, joints[..., 0, :]
    return vertices, annotated.truth[rows, None], annotated.regressor(vertices)[..., 0, :]


def errors_of_hypotheses(
    body: Callable[[Tensor, Tensor], BodyOutput],
    hypotheses: Hypotheses,
    betas: Tensor,
    batch: dict[str, Any],
    names: Sequence[str] = ERROR_NAMES,
    annotated: AnnotatedJoints | None = None,
) -> Tensor:
    """(N, M, len(names)) metres: hypotheses with their rotations and the predicted shape `betas` (N, 10), against the
    labels' pose and shape."""
    target = roma.rotvec_to_rotmat(batch["pose"])  # (N, 24, 3, 3)
    return mesh_errors(body, hypotheses.rotations, betas, target, batch["betas"], names, annotated=annotated)
