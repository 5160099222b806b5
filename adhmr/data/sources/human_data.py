"""HumanData, the .npz of mmhuman3d (compressed keypoints or not): reading it, and its people as sources.

Which release has which files is in human_data_sets.py. Units are metres and pixels, the camera is OpenCV's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adhmr.data.sources.numpy_file import NumpyArchive
from adhmr.data.sources.person import Person, SmplLabel, SmplxLabel, person_key
from adhmr.data.sources.source import Rejected, Release, Source
from adhmr.errors import AdhmrError

NUM_KEYPOINTS = 190
#: The 29 joints among the 190 keypoints; SMPL's two hand joints are the last ones. None is SMPL's head top (its
#: `headtop` is another point): -1.
KEYPOINTS_OF_JOINTS = np.array([*range(22), 188, 189, -1, 68, 73, 60, 63])
#: Which of several arrays counts: the first that is there.
KEYPOINTS_2D = ("keypoints2d", "keypoints2d_smpl", "keypoints2d_smplx", "keypoints2d_original")


class HumanDataFile:
    """The arrays of one file, read when they are asked for. Raises AdhmrError for what is missing or cannot be."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._content = NumpyArchive(path)
        self.images = [str(name) for name in self.array("image_path", None)]
        self.compressed = bool(np.asarray(self._content.get("__keypoints_compressed__", False)).item())

    def __len__(self) -> int:
        return len(self.images)

    def __contains__(self, key: str) -> bool:
        return key in self._content

    def array(self, key: str, shape: tuple[int, ...] | None) -> np.ndarray:
        """An array of the top level, each person's in this shape."""
        if key not in self._content:
            raise AdhmrError(f"{self.path}: there is no key '{key}'; expected a HumanData file of mmhuman3d")
        return self._shaped(np.asarray(self._content[key]), key, shape)

    def parameters(self, model: str, **shapes: tuple[int, ...]) -> dict[str, np.ndarray | None]:
        """The arrays of the dictionary `smpl` or `smplx`, each person's in these shapes; None for those not there."""
        stored = self._dictionary(model)
        return {
            name: None if name not in stored else self._shaped(np.asarray(stored[name]), f"{model}.{name}", shape)
            for name, shape in shapes.items()
        }

    def meta(self, key: str) -> np.ndarray | None:
        """(N, ...) of `meta`, or None."""
        stored = self._dictionary("meta") if "meta" in self._content else {}
        if key not in stored:
            return None
        return self._shaped(np.asarray(stored[key]), f"meta.{key}", None)

    def joints_px(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Pixels (N, 29, 2) and confidences (N, 29) of the 29 joints, NaN and 0 where the file has them not."""
        name = next((name for name in KEYPOINTS_2D if name in self._content), None)
        if name is None:
            return None
        points = np.asarray(self._content[name], np.float32)
        mask_name = f"{name}_mask"
        mask = np.asarray(self._content[mask_name]).astype(bool) if mask_name in self._content else None
        if mask is None or mask.shape != (NUM_KEYPOINTS,):
            raise AdhmrError(f"{self.path}: {mask_name} must be (190,), which tells the keypoints of {name} apart")
        expected = int(mask.sum()) if self.compressed else NUM_KEYPOINTS
        if points.shape != (len(self), expected, 3):
            raise AdhmrError(
                f"{self.path}: {name} has shape {points.shape}, expected {(len(self), expected, 3)} (keypoints "
                f"{'compressed to those of its mask' if self.compressed else 'not compressed'})"
            )
        column = np.cumsum(mask) - 1 if self.compressed else np.arange(NUM_KEYPOINTS)
        known = mask[KEYPOINTS_OF_JOINTS] & (KEYPOINTS_OF_JOINTS >= 0)  # (29,)
        taken = points[:, np.where(known, column[KEYPOINTS_OF_JOINTS], 0)]  # (N, 29, 3)
        confidence = np.where(known, taken[..., 2], 0.0)
        return np.where((confidence > 0)[..., None], taken[..., :2], np.nan), confidence

    def _dictionary(self, key: str) -> dict[str, Any]:
        value = self._content.get(key)
        value = value.item() if isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 0 else value
        if not isinstance(value, dict):
            raise AdhmrError(f"{self.path}: '{key}' is {type(value).__name__}, expected a dictionary of arrays")
        return value

    def _shaped(self, array: np.ndarray, key: str, shape: tuple[int, ...] | None) -> np.ndarray:
        count = len(self) if hasattr(self, "images") else len(array)
        if len(array) != count:
            raise AdhmrError(f"{self.path}: {key} has {len(array)} rows, image_path {count}")
        if shape is None:
            return array
        size = int(np.prod(shape))
        if array[0].size < size:
            raise AdhmrError(f"{self.path}: {key} has shape {array.shape}, expected ({count}, {size} or more numbers)")
        return array.reshape(count, -1)[:, :size].reshape(count, *shape).astype(np.float32)


@dataclass(frozen=True)
class HumanDataSet:
    """What differs from release to release."""

    name: str
    licence: str
    files: dict[str, tuple[str, ...]]  # split -> .npz below the root, in order
    images: str  # folder below the root that image_path counts from
    model: str  # "smpl" or "smplx"
    size: tuple[int, int] | None = None  # height, width of all images; null: meta says it, or the image itself
    intrinsics: tuple[float, float, float] | None = None  # focal length, cx, cy where meta has none
    flat_hands: bool = False
    neutral_betas: bool = False  # shapes are of the neutral body, whoever has them; `betas_neutral` before `betas`
    group: str | None = None  # what of image_path (a regular expression) names the group; null: the image's folder


class HumanDataSource(Source):
    """People of HumanData files, as a HumanDataSet describes them."""

    spec: HumanDataSet

    def __init__(self, release: Release) -> None:
        spec = self.spec
        self.name, self.licence = spec.name, spec.licence
        paths = [release.file] if release.file else [release.path(place) for place in spec.files[release.split]]
        self.image_root = release.path(spec.images)
        self._paths = paths
        self._files = [_OpenFile(HumanDataFile(path), spec) for path in paths]
        # Every so many-th image, with all of its people.
        self._rows = [(file, row) for file in self._files for row in file.rows(release.stride)]

    def files(self) -> list[Path]:
        return self._paths

    def __len__(self) -> int:
        return len(self._rows)

    def people(self, rows: range) -> list[Person | Rejected]:
        return [file.person(row) for file, row in self._rows[rows.start : rows.stop]]


class _OpenFile:
    """The columns of one file that people are made of."""

    def __init__(self, file: HumanDataFile, spec: HumanDataSet) -> None:
        self.file, self.spec = file, spec
        self.stem = file.path.stem
        betas = "betas"
        if spec.neutral_betas and file.parameters(spec.model, betas_neutral=(10,))["betas_neutral"] is not None:
            betas = "betas_neutral"
        shared = {"global_orient": (3,), "transl": (3,), betas: (10,)}
        if spec.model == "smpl":
            self.columns = file.parameters("smpl", body_pose=(23, 3), **shared)
        else:
            hands = {"left_hand_pose": (15, 3), "right_hand_pose": (15, 3)}
            self.columns = file.parameters(
                "smplx", body_pose=(21, 3), jaw_pose=(3,), expression=(10,), **hands, **shared
            )
        self.columns["betas"] = self.columns.pop(betas)
        for needed in ("global_orient", "body_pose"):
            if self.columns[needed] is None:
                raise AdhmrError(f"{file.path}: {spec.model} has no '{needed}'; its people would have no pose")
        self.joints_px = file.joints_px()
        self.boxes = file.array("bbox_xywh", (4,)) if "bbox_xywh" in file else None
        self.sizes = None
        if spec.size is None and file.meta("height") is not None and file.meta("width") is not None:
            self.sizes = np.stack([file.meta("height"), file.meta("width")], 1).astype(int)
        self.focal, self.centre = file.meta("focal_length"), file.meta("principal_point")
        self.gender = file.meta("gender")

    def rows(self, stride: int) -> list[int]:
        """People of every stride-th image, those of one image together."""
        order: dict[str, list[int]] = {}
        for row, image in enumerate(self.file.images):
            order.setdefault(image, []).append(row)
        return [row for image in sorted(order)[::stride] for row in order[image]]

    def person(self, row: int) -> Person:
        image = self.file.images[row]
        pixels, confidence = (None, None) if self.joints_px is None else (part[row] for part in self.joints_px)
        box = None if self.boxes is None else self.boxes[row].astype(np.float64)
        return Person(
            key=person_key(self.stem, row),
            image=image,
            group=self._group(image),
            intrinsics=self._intrinsics(row),
            size=self.spec.size or (None if self.sizes is None else tuple(self.sizes[row].tolist())),
            box=None if box is None else np.concatenate([box[:2], box[:2] + box[2:]]),
            body=self._body(row),
            joints29_px=pixels,
            confidence=confidence,
            provenance={"file": self.file.path.name, "row": row},
        )

    def _group(self, image: str) -> str:
        found = re.search(self.spec.group, image) if self.spec.group else None
        return found.group() if found else str(Path(image).parent)

    def _body(self, row: int) -> SmplLabel | SmplxLabel:
        part = {name: None if column is None else column[row] for name, column in self.columns.items()}
        gender = "neutral" if self.gender is None or self.spec.neutral_betas else _gender(str(self.gender[row]))
        if self.spec.model == "smpl":
            pose = np.concatenate([part["global_orient"][None], part["body_pose"]])
            return SmplLabel(pose, part["betas"], part["transl"], gender)
        left, right = part["left_hand_pose"], part["right_hand_pose"]
        return SmplxLabel(
            root=part["global_orient"],
            body=part["body_pose"],
            betas=part["betas"],
            transl=part["transl"],
            hands=None if left is None or right is None else np.stack([left, right]),
            jaw=part["jaw_pose"],
            expression=part["expression"],
            flat_hands=self.spec.flat_hands,
            gender=gender,
        )

    def _intrinsics(self, row: int) -> np.ndarray | None:
        if self.focal is None or self.centre is None:
            if self.spec.intrinsics is None:
                return None
            focal, x, y = self.spec.intrinsics
            return np.array([[focal, 0, x], [0, focal, y], [0, 0, 1.0]])
        focal = np.broadcast_to(np.asarray(self.focal[row], np.float64).ravel(), 2)
        x, y = np.asarray(self.centre[row], np.float64).ravel()
        return np.array([[focal[0], 0, x], [0, focal[1], y], [0, 0, 1.0]])


def _gender(text: str) -> str:
    first = text.strip().lower()[:1]
    return {"m": "male", "f": "female"}.get(first, "neutral")
