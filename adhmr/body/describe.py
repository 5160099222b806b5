"""What a body file holds, in a few lines for people; `adhmr body` prints them."""

from pathlib import Path

from smplx.joint_names import JOINT_NAMES as SMPLX_JOINT_NAMES

from adhmr.body.body_file import count_joints
from adhmr.body.body_model import BodyModel
from adhmr.body.skeleton import JOINT_NAMES, NUM_BODY_JOINTS
from adhmr.body.smplx_body import JOINT_MAPS, NUM_ROTATIONS, SmplxBody


def describe(path: str | Path) -> str:
    """Read a body file of either format as the program does, and say what is in it.

    Raises:
        AdhmrError: see `load_body_file` and `load_smplx_file`.
    """
    return _describe_smplx(path) if count_joints(path) == NUM_ROTATIONS else _describe_smpl(path)


def _describe_smpl(path: str | Path) -> str:
    body = BodyModel(path)
    leaves = zip(JOINT_NAMES[NUM_BODY_JOINTS:], body.leaf_vertices.tolist(), strict=True)
    return "\n".join(
        [
            f"{path}: SMPL's format, body '{body.body_id}', {body.num_vertices} vertices, {len(body.faces)} faces",
            f"  shape components: {body.file_components}, of which the first {body.layer.num_betas} are used",
            f"  joints: {NUM_BODY_JOINTS}, and the vertices {', '.join(f'{name} {vertex}' for name, vertex in leaves)}",
            f"  named vertices: {', '.join(body.extra_vertices) or 'none'}",
            f"  COCO-17 regressor: {'yes' if body.coco17 else 'no'}",
        ]
    )


def _describe_smplx(path: str | Path) -> str:
    body = SmplxBody(path)
    shape, expression = body.file_components
    lines = [
        f"{path}: SMPL-X's format, body '{body.body_id}', {body.num_vertices} vertices, {len(body.faces)} faces",
        f"  shape components: {shape}, expression components: {expression}, of which the first 10 are used",
        f"  joints: {NUM_ROTATIONS}",
    ]
    for name, points in JOINT_MAPS.items():
        changed = [
            f"{number} {joint} = {_point(body, point)}"
            for number, (joint, point) in enumerate(zip(JOINT_NAMES, points, strict=True))
            if point != joint or point not in SMPLX_JOINT_NAMES[:NUM_ROTATIONS]
        ]
        lines.append(f"  joint map '{name}': SMPL-X's own joint, but {', '.join(changed)}")
    return "\n".join(lines)


def _point(body: SmplxBody, point: str) -> str:
    if point in SMPLX_JOINT_NAMES[:NUM_ROTATIONS]:
        return point
    return f"vertex {body.point_vertices[point]}" if point in body.point_vertices else f"{point} (not in this file)"
