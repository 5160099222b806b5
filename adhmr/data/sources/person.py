"""One labelled person as a source gives it: in metres, in the camera's frame, in pixels of the image as it is on disk.

What a record is made of is in labels.py; what a source is, in source.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(slots=True)
class SmplLabel:
    """SMPL's parameters."""

    pose: np.ndarray  # (24, 3) axis-angle, radians; the root's in the camera's frame
    betas: np.ndarray | None  # (10,); None: unknown
    transl: np.ndarray | None  # (3,) metres, added to the body's vertices; None: where the body stands is unknown
    gender: str = "neutral"  # of the body that the parameters are for
    neutral_otherwise: bool = False  # without that body, the shape is read as the neutral one's: so do some evaluations


@dataclass(slots=True)
class SmplxLabel:
    """SMPL-X's parameters; what is None is zero (mean hands, closed mouth, calm face)."""

    root: np.ndarray  # (3,) axis-angle in the camera's frame, radians
    body: np.ndarray  # (21, 3)
    betas: np.ndarray | None  # (10,); None: unknown
    transl: np.ndarray | None  # (3,) metres
    hands: np.ndarray | None = None  # (2, 15, 3) left and right
    jaw: np.ndarray | None = None  # (3,)
    expression: np.ndarray | None = None  # (10,)
    flat_hands: bool = False  # whether hands hold the whole rotation, or are relative to the file's mean hands
    gender: str = "neutral"


@dataclass(slots=True)
class MeshLabel:
    """A registered mesh of SMPL-X's topology, whose pose and shape nobody knows."""

    vertices: np.ndarray  # (V, 3) metres
    gender: str = "neutral"  # of the SMPL-X file whose regressor finds its joints


@dataclass(slots=True)
class Person:
    """What is known of one person in one image. What is None is unknown.

    Joints that are given count more than those of the posed body: they are what the owners annotated. A person of whom
    no label is known is kept, unlabelled: with a box or as the whole image.
    """

    key: str  # unique in the data set: A-Z a-z 0-9 _ -, 80 characters at most
    image: str  # path of the image's file below the root of the images
    group: str  # what a split must not tear apart: the subject or the sequence
    intrinsics: np.ndarray | None = None  # (3, 3) of the image; None: see labels.py
    size: tuple[int, int] | None = None  # (height, width) that the source says the image has
    box: np.ndarray | None = None  # (4,) x0, y0, x1, y1 as the source gives it
    span: tuple[int, int] | None = None  # first byte and number of bytes of the image in its file; None: all of it
    upright: bool = False  # whether labels are in pixels of the image turned as its EXIF orientation says
    body: SmplLabel | SmplxLabel | MeshLabel | None = None
    extrinsics: np.ndarray | None = (
        None  # (3, 4) world to camera, metres, where `body` is in the world; joints never are
    )
    joints29: np.ndarray | None = None  # (29, 3) metres; rows that are not finite are unknown
    joints29_px: np.ndarray | None = None  # (29, 2) pixels; rows that are not finite are unknown
    confidence: np.ndarray | None = None  # (29,) of joints29_px; None: 1 where they are known
    near_px: np.ndarray | None = None  # (29, 2) pixels of another skeleton's points near the joints: see labels.py
    joints17: np.ndarray | None = None  # (17, 3) metres: Human3.6M's joints as annotated
    twists: np.ndarray | None = None  # (23,) radians; not finite: unknown
    provenance: dict[str, Any] = field(default_factory=dict)  # where the label comes from, JSON-serialisable

    @property
    def unlabelled(self) -> bool:
        """Whether no label is known. Without a box, too, the person is the whole image."""
        return all(part is None for part in (self.body, self.joints29, self.joints29_px, self.near_px))


def person_key(stem: str, row: int) -> str:
    """The key of the person in this row of something; `stem` names that and may hold any characters."""
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', stem)[-60:]}-{row:08d}"
