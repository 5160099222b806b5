"""Labels as COCO annotations and NeuralAnnot fits by the annotation's number, as Hand4Whole, OSX and `adhmr data
convert coco-neuralannot` read them. Reading is in adhmr/data/sources/keypoints_with_fits.py and neural_annot.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adhmr.atomic_file import write_atomically
from adhmr.body.body_model import BodyModel
from adhmr.body.smplx_body import SmplxBody
from adhmr.cleaning.portable_labels import PortableLabel
from adhmr.data.sources.bodies import fitted_betas
from adhmr.data.sources.keypoints_with_fits import COCO

ANNOTATIONS = COCO.annotations[0]
SMPLX_FITS, *_, SMPL_FITS = COCO.fits
IMAGES = COCO.images[0]
POINTS = {"keypoints": 17, "foot_kpts": 6, "face_kpts": 68, "lefthand_kpts": 21, "righthand_kpts": 21}
PARTS = ("face", "lefthand", "righthand")
AT_ONCE = 256  # bodies


def write_coco(labels: Sequence[PortableLabel], folder: Path, bodies: tuple[BodyModel, SmplxBody] | None) -> list[Path]:
    """Writes both files below `folder`, in the places of COCO's release, and returns them.

    The points are SMPL's joints where COCO has a point near them: the others have no visibility. bodies: the one that
    the labels are for and SMPL-X's, into which they are then moved; null: fits are SMPL's, as the labels are.
    """
    numbers = _annotation_numbers(labels)
    images = {image: number for number, image in enumerate(dict.fromkeys(one.image for one in labels), 1)}
    sizes = {one.image: one.size for one in labels}
    document = {
        "images": [
            {"id": number, "file_name": image, "height": sizes[image][0], "width": sizes[image][1]}
            for image, number in images.items()
        ],
        "annotations": [_annotation(one, number, images[one.image]) for one, number in zip(labels, numbers)],
        "categories": [{"id": 1, "name": "person", "supercategory": "person"}],
    }
    parameters = _smpl(labels) if bodies is None else _smplx(labels, *bodies)
    fits = {
        str(number): one | {"cam_param": _camera(label)}
        for number, label, one in zip(numbers, labels, parameters, strict=True)
    }
    paths = [folder / ANNOTATIONS, folder / (SMPL_FITS if bodies is None else SMPLX_FITS)]
    for path, content in zip(paths, (document, fits), strict=True):
        write_atomically(path, json.dumps(content))
    return paths


def _annotation_numbers(labels: Sequence[PortableLabel]) -> list[int]:
    """Those of the originals, where they have distinct ones; else from 1."""
    numbers = [one.provenance.get("annotation") for one in labels]
    if all(isinstance(number, int) for number in numbers) and len(set(numbers)) == len(numbers):
        return numbers
    return list(range(1, len(labels) + 1))


def _annotation(label: PortableLabel, number: int, image: int) -> dict[str, Any]:
    points = {name: np.zeros((count, 3)) for name, count in POINTS.items()}  # x, y, visibility
    confidence = label.record["joints_conf"]
    for name, rows in COCO.points.items():
        for joint, row in rows.items():
            if confidence[joint] > 0:
                points[name][row] = *label.joints_px[joint], 2
    width, height = label.box[2:] - label.box[:2]
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "iscrowd": 0,
        "area": float(width * height),
        "bbox": [*label.box[:2].tolist(), float(width), float(height)],
        "num_keypoints": int((points["keypoints"][:, 2] > 0).sum()),
        **{name: value.ravel().tolist() for name, value in points.items()},
        **{f"{part}_box": [0.0] * 4 for part in PARTS},
        **{f"{part}_valid": False for part in PARTS},
        "adhmr_key": label.key,
        "adhmr_score": label.provenance.get("cleaning", {}).get("score"),
    }


def _camera(label: PortableLabel) -> dict[str, list[float]]:
    matrix = label.intrinsics
    return {"focal": matrix[[0, 1], [0, 1]].tolist(), "princpt": matrix[:2, 2].tolist()}


def _smpl(labels: Sequence[PortableLabel]) -> list[dict[str, Any]]:
    return [
        {
            "smpl_param": {
                "pose": one.record["pose"].ravel().tolist(),
                "shape": one.record["betas"].tolist(),
                "trans": one.record["transl"].tolist(),
            }
        }
        for one in labels
    ]


@torch.no_grad()
def _smplx(labels: Sequence[PortableLabel], body: BodyModel, smplx: SmplxBody) -> list[dict[str, Any]]:
    """SMPL-X's body has SMPL's 21 body rotations; its shape is the one whose unposed joints are nearest, its place the
    one that puts the pelvis where it is. Hands, jaw and expression are zero: SMPL knows nothing of them."""
    rest_of_all = []
    records = np.array([one.record for one in labels])
    for first in range(0, len(labels), AT_ONCE):
        some = records[first : first + AT_ONCE]
        rest = body.rest_joints29(torch.from_numpy(some["betas"]))  # (n, 29, 3)
        betas, _ = fitted_betas(smplx, rest)
        pelvis = torch.from_numpy(some["transl"]) + rest[:, 0]
        rest_of_all.append(torch.cat([betas, pelvis - smplx.rest_joints29(betas)[:, 0]], 1))  # (n, 13)
    found = torch.cat(rest_of_all).numpy()
    zeros = {"lhand_pose": [0.0] * 45, "rhand_pose": [0.0] * 45, "jaw_pose": [0.0] * 3, "expr": [0.0] * 10}
    return [
        {
            "smplx_param": {
                "root_pose": record["pose"][0].tolist(),
                "body_pose": record["pose"][1:22].ravel().tolist(),
                "shape": row[:10].tolist(),
                "trans": row[10:].tolist(),
                **zeros,
            }
        }
        for record, row in zip(records, found, strict=True)
    ]
