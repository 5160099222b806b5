"""Labels as a HumanData file of mmhuman3d, as SMPLer-X and `adhmr data convert human-data` read it: SMPL's parameters,
compressed keypoints, cameras in `meta`. Reading is in adhmr/data/sources/human_data.py."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adhmr.atomic_file import write_atomically
from adhmr.cleaning.portable_labels import BOX_OVER_JOINTS, PortableLabel
from adhmr.data.sources.human_data import KEYPOINTS_OF_JOINTS, NUM_KEYPOINTS


def write_human_data(labels: Sequence[PortableLabel], path: Path, source: str) -> None:
    """`source` says what the labels are from. Joints that are none of the 190 keypoints (SMPL's head top) are left out;
    the body gives them again."""
    records = np.array([label.record for label in labels])  # (N,) SAMPLE_DTYPE
    boxes = np.stack([label.box for label in labels])
    confidence = records["joints_conf"]  # (N, 29)
    pixels = np.stack([label.joints_px for label in labels])  # (N, 29, 2)
    metres = np.where(confidence[..., None] > 0, records["joints29"], 0)  # (N, 29, 3)
    mask = np.zeros(NUM_KEYPOINTS, np.uint8)
    mask[KEYPOINTS_OF_JOINTS[KEYPOINTS_OF_JOINTS >= 0]] = 1
    members = {
        "image_path": np.array([label.image for label in labels]),
        "bbox_xywh": np.column_stack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2], np.ones(len(boxes))]),
        "keypoints2d_smpl": _keypoints(pixels, confidence),
        "keypoints2d_smpl_mask": mask,
        "keypoints3d_smpl": _keypoints(metres, confidence),
        "keypoints3d_smpl_mask": mask,
        "__keypoints_compressed__": np.array(True),
        "smpl": _object(
            {
                "global_orient": records["pose"][:, 0],
                "body_pose": records["pose"][:, 1:],  # (N, 23, 3)
                "betas": records["betas"],
                "transl": records["transl"],
            }
        ),
        "meta": _object(
            {
                "height": np.array([label.size[0] for label in labels]),
                "width": np.array([label.size[1] for label in labels]),
                "focal_length": np.stack([label.intrinsics[[0, 1], [0, 1]] for label in labels]),
                "principal_point": np.stack([label.intrinsics[:2, 2] for label in labels]),
                "gender": np.array(["neutral"] * len(labels)),
            }
        ),
        "misc": _object(
            {
                "bbox_body_scale": BOX_OVER_JOINTS,
                "kps3d_root_aligned": False,
                "adhmr_source": source,
                "adhmr_key": [label.key for label in labels],
                "adhmr_score": [label.provenance.get("cleaning", {}).get("score") for label in labels],
            }
        ),
        "config": np.array("adhmr"),
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **members)
    write_atomically(path, buffer.getvalue())


def _keypoints(points: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """(N, k, D + 1) of points (N, 29, D) and confidences (N, 29): the keypoints that joints are, in their order."""
    joints = np.argsort(KEYPOINTS_OF_JOINTS)[(KEYPOINTS_OF_JOINTS < 0).sum() :]  # by keypoint
    return np.concatenate([points, confidence[..., None]], -1)[:, joints].astype(np.float32)


def _object(value: dict[str, Any]) -> np.ndarray:
    """The 0-dimensional array that numpy stores a dictionary in."""
    array = np.empty((), object)
    array[()] = value
    return array
