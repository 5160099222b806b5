"""4D-Humans' training tars (HMR 2.0): an image, and in KEY.data.pyd a pickled list of its people with SMPL fits and 44
keypoints. How tars are read is in tar_samples.py. Nothing a pickle asks for is run."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from adhmr.body.restricted_pickle import read_pickled
from adhmr.data.sources.person import Person, SmplLabel, person_key
from adhmr.data.sources.source import Rejected
from adhmr.data.sources.tar_samples import TarSample, TarSource
from adhmr.errors import AdhmrError

LABELS = "data.pyd"
FOCAL, CROP = 5000.0, 256.0  # the camera of the fits: pixels in a square crop of so many pixels about the person
UNIT = 200.0  # pixels that a `scale` of 1 means
SEEN = 0.3  # confidence of a keypoint that is believed, as in 4D-Humans' training
LARGEST_BETA = 3.0  # of shapes that are believed there
#: joint of the 29 -> its rows among the 44 keypoints: OpenPose's 25 and then 19 others; the first that is seen counts
KEYPOINTS = {
    **{16: (5, 34), 17: (2, 33), 18: (6, 35), 19: (3, 32), 20: (7, 36), 21: (4, 31)},
    **{1: (12, 28), 2: (9, 27), 4: (13, 29), 5: (10, 26), 7: (14, 30), 8: (11, 25)},
    **{24: (38,), 27: (19,), 28: (22,)},
}
SHAPES = {"center": (2,), "scale": (2,), "keypoints_2d": (44, 3), "body_pose": (24, 3), "betas": (10,)}


class FourDHumans(TarSource):
    """4D-Humans' training tars: SMPL fits, placed by their keypoints and the fits' camera."""

    name = "4D-Humans"
    licence = "as those of the data sets that it is made of: github.com/shubham-goel/4D-Humans"
    splits = ("train",)

    def people_of(self, sample: TarSample, image: str, first: int) -> list[Person | Rejected]:
        content = sample.read(LABELS)
        if content is None or sample.image is None:
            return []
        people = read_pickled(io.BytesIO(content), sample.tar)
        if not isinstance(people, list):
            raise AdhmrError(f"{sample.tar}: {sample.key}.{LABELS} holds {type(people).__name__}, expected a list")
        return [_person(sample, image, first + n, n, label) for n, label in enumerate(people)]


def _person(sample: TarSample, image: str, number: int, place: int, label: Any) -> Person | Rejected:
    columns = _columns(sample, label)
    side, centre = float(columns["scale"].max() * UNIT), columns["center"]
    key = person_key(sample.key, number)
    if not (np.isfinite(side) and side >= 1):
        return Rejected(key, "its box is empty")
    body, betas = None, columns["betas"]
    if float(label.get("has_body_pose", 0)) > 0:
        believed = float(label.get("has_betas", 0)) > 0 and np.abs(betas).max() <= LARGEST_BETA
        body = SmplLabel(columns["body_pose"], betas if believed else None, None)
    near, confidence = np.full((29, 2), np.nan), np.zeros(29)
    points = columns["keypoints_2d"]
    for joint, rows in KEYPOINTS.items():
        row = next((row for row in rows if points[row, 2] >= SEEN), None)
        if row is not None:
            near[joint], confidence[joint] = points[row, :2], min(points[row, 2], 1.0)
    focal = FOCAL * side / CROP
    return Person(
        key=key,
        image=image,
        span=sample.image,
        group=sample.key,
        intrinsics=np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1.0]]),
        box=np.concatenate([centre - side / 2, centre + side / 2]),
        body=body,
        near_px=near,
        confidence=confidence,
        provenance={"key": sample.key, "person": place},
    )


def _columns(sample: TarSample, label: Any) -> dict[str, np.ndarray]:
    """Raises AdhmrError for a key that is missing or has another shape."""
    found = {}
    for key, shape in SHAPES.items():
        value = np.asarray(label[key], np.float64) if isinstance(label, Mapping) and key in label else None
        if value is None or value.size != np.prod(shape):
            what = "is missing" if value is None else f"has the shape {value.shape}"
            raise AdhmrError(f"{sample.tar}: '{key}' of {sample.key}.{LABELS} {what}, expected {shape}")
        found[key] = value.reshape(shape)
    return found
