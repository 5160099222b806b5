"""COCO (whole body) and MPII with NeuralAnnot's SMPL-X (or SMPL) fits, which are found by the annotation's number.
People without a fit keep their annotated points. What a fit holds is in neural_annot.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adhmr.data.sources.json_elements import json_elements, json_members
from adhmr.data.sources.neural_annot import FIT_KINDS, fit_label, fit_row
from adhmr.data.sources.person import Person, person_key
from adhmr.data.sources.source import Rejected, Release, Source
from adhmr.errors import AdhmrError


@dataclass(frozen=True)
class KeypointSet:
    """What differs between the sets. Paths are below the root, usual places in order."""

    name: str
    licence: str
    annotations: tuple[str, ...]
    fits: tuple[str, ...]
    images: tuple[str, ...]
    points: dict[str, dict[int, int]]  # key of an annotation -> {joint of the 29: its row of x, y, visible}


COCO = KeypointSet(
    name="COCO",
    licence="annotations CC BY 4.0, images as their owners say: cocodataset.org; fits: mks0601/NeuralAnnot_RELEASE",
    annotations=("annotations/coco_wholebody_train_v1.0.json",),
    fits=(
        "annotations/MSCOCO_train_SMPLX_all_NeuralAnnot.json",
        "annotations/MSCOCO_train_SMPLX.json",
        "annotations/MSCOCO_train_SMPL_NeuralAnnot.json",
    ),
    images=("images/train2017", "train2017"),
    points={
        "keypoints": {16: 5, 17: 6, 18: 7, 19: 8, 20: 9, 21: 10, 1: 11, 2: 12, 4: 13, 5: 14, 7: 15, 8: 16},
        "foot_kpts": {27: 0, 28: 3},
    },
)
MPII = KeypointSet(
    name="MPII",
    licence="non-commercial research: human-pose.mpi-inf.mpg.de; fits: mks0601/NeuralAnnot_RELEASE",
    annotations=("data/annotations/train.json", "annotations/train.json"),
    fits=("data/annotations/MPII_train_SMPLX_NeuralAnnot.json", "annotations/MPII_train_SMPLX_NeuralAnnot.json"),
    images=("data", "."),  # file names begin with images/
    points={
        "keypoints": {
            **{8: 0, 5: 1, 2: 2, 1: 3, 4: 4, 7: 5, 0: 6, 24: 9},
            **{21: 10, 19: 11, 17: 12, 16: 13, 18: 14, 20: 15},
        },
    },
)


class KeypointsWithFits(Source):
    """One person an annotation; crowds, and people without a point and without a fit, are not listed."""

    spec: KeypointSet
    splits = ("train",)

    def __init__(self, release: Release) -> None:
        spec = self.spec
        self.name, self.licence = spec.name, spec.licence
        self._path, self._fit_path = release.path(*spec.annotations), release.path(*spec.fits)
        self.image_root = release.path(*spec.images)
        self._read_fits()
        self._read_annotations(release.stride)

    def files(self) -> list[Path]:
        return [self._path, self._fit_path]

    def __len__(self) -> int:
        return len(self._people)

    def _read_fits(self) -> None:
        self._fit_of: dict[int, int] = {}  # annotation -> row of the arrays
        fits, cameras = [], []
        for number, (name, entry) in enumerate(json_members(self._fit_path)):
            try:
                focal, centre = (np.asarray(entry["cam_param"][key], np.float32) for key in ("focal", "princpt"))
                kind = next((kind for kind in FIT_KINDS if kind in entry), "smplx_param")
                fit, self._fit_of[int(name)] = entry[kind], number
                cameras.append(np.concatenate([np.broadcast_to(focal.ravel(), 2), centre.reshape(2)]))
            except (KeyError, TypeError, ValueError) as error:
                raise AdhmrError(
                    f"{self._fit_path}, annotation {name}: {error}; expected smplx_param and cam_param with focal and "
                    "princpt (smpl_param for SMPL)"
                ) from None
            fits.append(fit_row(fit, self._fit_path, f"annotation {name}"))
            if len(fits[-1]) != len(fits[0]):
                raise AdhmrError(
                    f"{self._fit_path}, annotation {name}: SMPL and SMPL-X in one file; expected the same kind of fit "
                    "for all: make a file for each"
                )
        self._fits = np.array(fits, np.float32).reshape(len(fits), -1)
        self._cameras = np.array(cameras, np.float32).reshape(-1, 4)  # focal lengths, principal point

    def _read_annotations(self, stride: int) -> None:
        """The people of every stride-th image: (image, annotation, box, points), those of one image together."""
        images: dict[int, tuple[str, int, int]] = {}
        people: list[tuple[int, int, Any, np.ndarray]] = []
        for kind, element in json_elements(self._path, ("images", "annotations")):
            try:
                if kind == "images":
                    images[element["id"]] = (element["file_name"], element["height"], element["width"])
                    continue
                if element.get("iscrowd"):
                    continue
                near = self._points(element)
                if element["id"] in self._fit_of or np.isfinite(near).any():
                    people.append((element["image_id"], element["id"], element["bbox"], near.astype(np.float32)))
            except (KeyError, TypeError) as error:
                raise AdhmrError(f"{self._path}: one of its {kind} has no {error}; get the file again") from None
        chosen = set(sorted(images)[::stride])
        self._images = images
        self._people = sorted((one for one in people if one[0] in chosen), key=lambda one: one[:2])

    def _points(self, annotation: dict[str, Any]) -> np.ndarray:
        """(29, 2) pixels of the annotated points near the joints; NaN where they are not visible or not annotated."""
        near = np.full((29, 2), np.nan)
        for key, rows in self.spec.points.items():
            points = np.asarray(annotation[key], np.float64)
            if points.size % 3 or points.size <= 3 * max(rows.values()):
                raise AdhmrError(
                    f"{self._path}, annotation {annotation['id']}: '{key}' has {points.size} numbers, expected x, y "
                    f"and visibility of {max(rows.values()) + 1} points or more"
                )
            points = points.reshape(-1, 3)[list(rows.values())]
            near[list(rows)] = np.where(points[:, 2:] > 0, points[:, :2], np.nan)
        return near

    def people(self, rows: range) -> list[Person | Rejected]:
        return [self._person(*one) for one in self._people[rows.start : rows.stop]]

    def _person(self, image: int, annotation: int, box: Any, near: np.ndarray) -> Person | Rejected:
        key = person_key(f"{self.spec.name.lower()}-train", annotation)
        if image not in self._images:
            return Rejected(key, "its image is not listed")
        name, height, width = self._images[image]
        body = intrinsics = None
        if (row := self._fit_of.get(annotation)) is not None:
            body = fit_label(self._fits[row])
            focal_x, focal_y, x, y = self._cameras[row].tolist()
            intrinsics = np.array([[focal_x, 0, x], [0, focal_y, y], [0, 0, 1.0]])
        box = np.asarray(box, np.float64).reshape(4)
        return Person(
            key=key,
            image=name,
            group=name,
            intrinsics=intrinsics,
            size=(height, width),
            box=np.concatenate([box[:2], box[:2] + box[2:]]),
            body=body,
            near_px=near,
            provenance={"file": self._path.name, "annotation": annotation},
        )


class CocoNeuralAnnot(KeypointsWithFits):
    """COCO with whole-body keypoints and NeuralAnnot's SMPL-X fits."""

    spec = COCO


class MpiiNeuralAnnot(KeypointsWithFits):
    """MPII's 2-D poses with NeuralAnnot's SMPL-X fits."""

    spec = MPII
