"""HumanData files of made people, as mmhuman3d writes them: top-level arrays and pickled dictionaries in one .npz."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.data.sources.made_people import MadePerson, Photograph

NUM_KEYPOINTS = 190
JOINTS_THERE = [*range(22), 188, 189, 68, 73, 60, 63]  # of the 190: the 24 joints, finger tips and big toes
ROWS_OF_THEM = [*range(24), 25, 26, 27, 28]  # of the 29 joints


@dataclass
class Row:
    image: str  # image_path
    photograph: Photograph
    person: MadePerson


def write_human_data(
    path: Path, rows: list[Row], model: str, compressed: bool = True, camera: bool = True, **changed
) -> Path:
    """`changed`: top-level members in place of the usual ones, or None: without."""
    people, count = [row.person for row in rows], len(rows)
    boxes = np.stack([np.concatenate([one.box[:2], one.box[2:] - one.box[:2], [1.0]]) for one in people])
    points = np.zeros((count, NUM_KEYPOINTS, 3), np.float32)
    for keypoint, joint in zip(JOINTS_THERE, ROWS_OF_THEM, strict=True):
        points[:, keypoint, :2] = [one.joints29_px[joint] for one in people]
        points[:, keypoint, 2] = 1.0
    mask = np.zeros(NUM_KEYPOINTS, np.uint8)
    mask[JOINTS_THERE] = 1
    sizes = [row.photograph.image.shape[:2] for row in rows]
    meta = {"height": [size[0] for size in sizes], "width": [size[1] for size in sizes]}
    if camera:
        cameras = [row.photograph.intrinsics for row in rows]
        meta |= {
            "focal_length": [(matrix[0, 0], matrix[1, 1]) for matrix in cameras],
            "principal_point": [tuple(matrix[:2, 2]) for matrix in cameras],
        }
    members = {
        "image_path": np.array([row.image for row in rows]),
        "bbox_xywh": boxes,
        f"keypoints2d_{model}": points[:, mask.astype(bool)] if compressed else points,
        f"keypoints2d_{model}_mask": mask,
        "__keypoints_compressed__": np.array(compressed),
        model: as_object(parameters(people, model)),
        "meta": as_object(meta),
        "config": np.array("made"),
    }
    members = {name: value for name, value in (members | changed).items() if value is not None}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **members)
    return path


def parameters(people: list[MadePerson], model: str) -> dict[str, np.ndarray]:
    """The dictionary `smpl` or `smplx` of a HumanData file."""
    pose = np.stack([one.pose for one in people])
    stored = {
        "global_orient": pose[:, 0],
        "body_pose": pose[:, 1:].reshape(len(people), 69) if model == "smpl" else pose[:, 1:22],
        "betas": np.stack([one.betas for one in people]),
        "transl": np.stack([one.transl for one in people]),
    }
    if model == "smplx":
        shapes = {"left_hand_pose": (15, 3), "right_hand_pose": (15, 3), "expression": (10,)}
        shapes |= {name: (3,) for name in ("jaw_pose", "leye_pose", "reye_pose")}
        stored |= {name: np.zeros((len(people), *shape), np.float32) for name, shape in shapes.items()}
    return stored


def as_object(value: dict) -> np.ndarray:
    """The 0-dimensional array of an object that numpy stores a dictionary as."""
    array = np.empty((), object)
    array[()] = value
    return array
