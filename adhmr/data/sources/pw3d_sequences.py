"""3DPW as its owners distribute it: a pickle for each sequence (sequenceFiles/SPLIT/*.pkl) with bodies and joints in
the world and a moving camera, all at the pace of its images (imageFiles/SEQUENCE/image_00000.jpg).

The form that ScoreHypo passes on is in scorehypo_sets.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adhmr.body.restricted_pickle import read_pickle
from adhmr.body.skeleton import NUM_BODY_JOINTS, NUM_JOINTS
from adhmr.data.sources.person import Person, SmplLabel, person_key
from adhmr.data.sources.source import Rejected, Release, Source
from adhmr.errors import AdhmrError

GENDERS = {"m": "male", "f": "female"}


class Pw3dSequences(Source):
    """3DPW's own sequence files, with gendered bodies; a stride counts the images of each sequence."""

    name = "3DPW"
    licence = "non-commercial research: virtualhumans.mpi-inf.mpg.de/3DPW"
    splits = ("train", "validation", "test")

    def __init__(self, release: Release) -> None:
        folder = release.path(f"sequenceFiles/{release.split}")
        self._files = [release.file] if release.file else sorted(folder.glob("*.pkl"))
        if not self._files:
            raise AdhmrError(f"{folder}: there is no .pkl; docs/datasets.md says what to download and where it goes")
        self.image_root = release.path("imageFiles")
        self._sequences = [_read(path) for path in self._files]
        rows = [
            (number, frame, actor)
            for number, sequence in enumerate(self._sequences)
            for frame in range(0, len(sequence.cameras), release.stride)
            for actor in range(len(sequence.genders))
        ]
        self._rows = np.array(rows, np.int32).reshape(-1, 3)

    def files(self) -> list[Path]:
        return self._files

    def __len__(self) -> int:
        return len(self._rows)

    def people(self, rows: range) -> list[Person | Rejected]:
        chosen = self._rows[rows.start : rows.stop].tolist()
        return [self._sequences[number].person(frame, actor) for number, frame, actor in chosen]


@dataclass
class _Sequence:
    """F images, A people. The world's units are metres."""

    name: str
    file: str
    genders: list[str]
    intrinsics: np.ndarray  # (3, 3)
    cameras: np.ndarray  # (F, 4, 4) world to camera
    valid: np.ndarray  # (A, F) whether the camera's pose fits this person in this image
    poses: np.ndarray  # (A, F, 24, 3) axis-angle; the root's in the world
    betas: np.ndarray  # (A, 10)
    joints: np.ndarray  # (A, F, 24, 3) in the world

    def person(self, frame: int, actor: int) -> Person | Rejected:
        key = person_key(f"{self.name}-{actor}", frame)
        if not self.valid[actor, frame]:
            return Rejected(key, "its camera's pose is not valid")
        extrinsics = self.cameras[frame, :3].astype(np.float64)
        joints = np.full((NUM_JOINTS, 3), np.nan)
        joints[:NUM_BODY_JOINTS] = self.joints[actor, frame] @ extrinsics[:, :3].T + extrinsics[:, 3]
        return Person(
            key=key,
            image=f"{self.name}/image_{frame:05d}.jpg",
            group=self.name,
            intrinsics=self.intrinsics,
            # Not `trans`: the annotated pelvis says where the body stands, also when it is read with another body.
            body=SmplLabel(self.poses[actor, frame], self.betas[actor], None, self.genders[actor]),
            extrinsics=extrinsics,
            joints29=joints,
            provenance={"file": self.file, "frame": frame, "person": actor},
        )


def _read(path: Path) -> _Sequence:
    """Raises AdhmrError for a key that is missing or has another shape."""
    if not path.exists():
        raise AdhmrError(f"{path}: no such file; docs/datasets.md says where to get it")
    content = read_pickle(path)
    if not isinstance(content, dict):
        raise AdhmrError(f"{path}: it holds {type(content).__name__}, expected the dictionary of a sequence of 3DPW")
    names = [str(letter).strip().lower()[:1] for letter in _of(path, content, "genders")]
    if not names or not set(names) <= set(GENDERS):
        raise AdhmrError(f"{path}: 'genders' is {content['genders']}, expected m or f for each person")
    people = len(names)
    betas = [_numbers(path, "betas", one).ravel()[:10] for one in _of(path, content, "betas")]
    if len(betas) != people:
        raise AdhmrError(f"{path}: 'betas' are of {len(betas)} people, 'genders' of {people}")
    cameras = _array(path, content, "cam_poses", (-1, 4, 4))
    frames = len(cameras)
    return _Sequence(
        name=str(_of(path, content, "sequence")),
        file=path.name,
        genders=[GENDERS[letter] for letter in names],
        intrinsics=_array(path, content, "cam_intrinsics", (3, 3)).astype(np.float64),
        cameras=cameras,
        valid=_array(path, content, "campose_valid", (people, frames)) > 0,
        poses=_array(path, content, "poses", (people, frames, 24, 3)),
        betas=np.stack(betas),
        joints=_array(path, content, "jointPositions", (people, frames, 24, 3)),
    )


def _of(path: Path, content: dict[str, Any], key: str) -> Any:
    if key not in content:
        raise AdhmrError(f"{path}: there is no key '{key}'; expected a sequence file of 3DPW (sequenceFiles.zip)")
    return content[key]


def _numbers(path: Path, key: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value, np.float32)
    except (TypeError, ValueError):
        raise AdhmrError(
            f"{path}: '{key}' holds no numbers, or rows of different lengths; get the file again"
        ) from None


def _array(path: Path, content: dict[str, Any], key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 in this shape, from arrays that may be flat at the end."""
    array = _numbers(path, key, _of(path, content, key))
    count = np.prod([length for length in shape if length > 0], dtype=int)
    if array.ndim < 2 or array.size % count or (-1 not in shape and array.size != count):
        raise AdhmrError(f"{path}: '{key}' has shape {array.shape}, expected {shape} numbers")
    return array.reshape(shape)
