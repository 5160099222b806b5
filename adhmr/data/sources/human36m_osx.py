"""Human3.6M as OSX reads it: images and boxes, cameras, joints in the world (mm) and NeuralAnnot's SMPL-X fits in the
world (m), four files a subject. The same recordings in ScoreHypo's form are in scorehypo_sets.py."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from adhmr.data.sources.json_elements import json_elements, json_members
from adhmr.data.sources.neural_annot import fit_label, fit_row
from adhmr.data.sources.person import Person, person_key
from adhmr.data.sources.source import Rejected, Release, Source
from adhmr.errors import AdhmrError

SUBJECTS = {"train": (1, 5, 6, 7, 8), "test": (9, 11)}
TEST_CAMERA = 4  # the frontal one, of the usual protocol
PARTS = ("data", "camera", "joint_3d", "SMPLX_NeuralAnnot")
MILLIMETRES = 1e-3
#: The files name the right side first; H36M_NAMES the left.
LEFT_FIRST = [0, 4, 5, 6, 1, 2, 3, *range(7, 17)]
#: Of the 29 joints, those that Human3.6M's (H36M_NAMES) lie near.
NEAR = {0: 0, 1: 1, 4: 2, 7: 3, 2: 4, 5: 5, 8: 6, 16: 11, 18: 12, 20: 13, 17: 14, 19: 15, 21: 16}
#: (subject, action, subaction) whose joints do not lie on the person: what HMR papers leave out of S9.
MISALIGNED = {(9, 5, 2), (9, 10, 2), (9, 13, 1)}

Frame = tuple[int, int, int]  # action, subaction, frame


class Human36mOsx(Source):
    """Human3.6M with NeuralAnnot's SMPL-X fits; frames that the stride divides (usual: 5 for train, 64 for test)."""

    name = "Human3.6M"
    licence = "academic use only, on registration: vision.imar.ro/human3.6m; fits: mks0601/NeuralAnnot_RELEASE"
    splits = tuple(SUBJECTS)

    def __init__(self, release: Release) -> None:
        self.image_root = release.path("images")
        self._subjects = [_Subject(release, subject) for subject in SUBJECTS[release.split]]
        self._rows = [(subject, row) for subject in self._subjects for row in range(len(subject.names))]

    def __len__(self) -> int:
        return len(self._rows)

    def people(self, rows: range) -> list[Person | Rejected]:
        return [subject.person(row) for subject, row in self._rows[rows.start : rows.stop]]

    def files(self) -> list[Path]:
        return [path for subject in self._subjects for path in subject.paths.values()]


class _Subject:
    """The frames of one subject that are asked for."""

    def __init__(self, release: Release, subject: int) -> None:
        self.subject = subject
        stem = f"annotations/Human36M_subject{subject}"
        self.paths = {part: release.path(f"{stem}_{part}.json") for part in PARTS}
        self.cameras = {int(name): self._camera(name, one) for name, one in json_members(self.paths["camera"])}
        self._read_images(release)
        wanted = {tuple(frame) for frame in self.frames.tolist()}
        self.joints = self._by_frame("joint_3d", wanted, self._joints)
        self.fits = self._by_frame("SMPLX_NeuralAnnot", wanted, fit_row)

    def _read_images(self, release: Release) -> None:
        """Names, places (action, subaction, frame), cameras, sizes and boxes of the frames that are asked for."""
        path = self.paths["data"]
        boxes: dict[int, tuple[Any, int]] = {}
        images: dict[int, tuple] = {}
        keys = ("id", "file_name", "height", "width", "action_idx", "subaction_idx", "frame_idx", "cam_idx")
        for kind, element in json_elements(path, ("images", "annotations")):
            try:
                if kind == "annotations":
                    boxes[element["image_id"]] = (element["bbox"], element["id"])
                    continue
                number, *values = (element[key] for key in keys)
            except (KeyError, TypeError) as error:
                raise AdhmrError(f"{path}: one of its {kind} has no {error}; get the file again") from None
            frame, camera = values[-2:]
            if frame % release.stride == 0 and (release.split != "test" or camera == TEST_CAMERA):
                images[number] = values
        order = sorted(images.keys() & boxes.keys(), key=lambda number: images[number][0])
        chosen = [images[number] for number in order]
        self.numbers = np.array(order, np.int64)
        self.names = [values[0] for values in chosen]
        self.sizes = np.array([values[1:3] for values in chosen], np.int32).reshape(-1, 2)  # height, width
        self.frames = np.array([values[3:6] for values in chosen], np.int32).reshape(-1, 3)
        self.camera_of = np.array([values[6] for values in chosen], np.int32)
        self.boxes = np.array([boxes[number][0] for number in order], np.float32).reshape(-1, 4)  # x, y, width, height
        self.annotations = [boxes[number][1] for number in order]
        unknown = sorted({*self.camera_of.tolist()} - {*self.cameras})
        if unknown:
            raise AdhmrError(f"{self.paths['camera']}: there is no camera '{unknown[0]}', which {path} names")

    def _camera(self, name: str, camera: Any) -> dict[str, np.ndarray]:
        shapes = {"R": (3, 3), "t": (3,), "f": (2,), "c": (2,)}
        try:
            return {key: np.asarray(camera[key], np.float64).reshape(shape) for key, shape in shapes.items()}
        except (KeyError, TypeError, ValueError) as error:
            raise AdhmrError(f"{self.paths['camera']}, camera {name}: {error}; expected R, t (mm), f and c") from None

    @staticmethod
    def _joints(joints: Any, path: Path, name: str) -> np.ndarray:
        points = np.asarray(joints, np.float32)
        if points.shape != (17, 3):
            raise AdhmrError(f"{path}, {name}: joints of shape {points.shape}, expected (17, 3), mm in the world")
        return points[LEFT_FIRST]

    def _by_frame(self, part: str, wanted: set[Frame], read: Any) -> dict[Frame, np.ndarray]:
        """The values of a file nested by action, subaction and frame, of the frames that are wanted."""
        path, found = self.paths[part], {}
        for action, subactions in json_members(path):
            for subaction, frames in subactions.items():
                for frame, value in frames.items():
                    place = (int(action), int(subaction), int(frame))
                    if place in wanted:
                        found[place] = read(value, path, f"action {action}, subaction {subaction}, frame {frame}")
        return found

    def person(self, row: int) -> Person | Rejected:
        name, place = self.names[row], tuple(self.frames[row].tolist())
        key = person_key(re.sub(r"\.\w+$", "", Path(name).name), int(self.numbers[row]))
        if (self.subject, *place[:2]) in MISALIGNED:
            return Rejected(key, "its sequence is known to be misaligned")
        joints, fit = self.joints.get(place), self.fits.get(place)
        if joints is None or fit is None:
            return Rejected(key, "its frame has no joints" if joints is None else "its frame has no fit")
        camera, box = self.cameras[int(self.camera_of[row])], self.boxes[row]
        intrinsics = np.array([[camera["f"][0], 0, camera["c"][0]], [0, camera["f"][1], camera["c"][1]], [0, 0, 1.0]])
        in_camera = (joints @ camera["R"].T + camera["t"]) * MILLIMETRES  # (17, 3) metres
        near, pixels = np.full((29, 2), np.nan), in_camera @ intrinsics.T
        near[list(NEAR)] = (pixels[:, :2] / pixels[:, 2:])[list(NEAR.values())]
        return Person(
            key=key,
            image=name,
            group=f"S{self.subject}",
            intrinsics=intrinsics,
            size=tuple(self.sizes[row].tolist()),
            box=np.concatenate([box[:2], box[:2] + box[2:]]),
            body=fit_label(fit),
            extrinsics=np.column_stack([camera["R"], camera["t"] * MILLIMETRES]),
            near_px=near,
            joints17=in_camera,
            provenance={
                "file": self.paths["data"].name,
                "annotation": self.annotations[row],
                "subject": self.subject,
                "camera": int(self.camera_of[row]),
                "frame": list(place),
            },
        )
