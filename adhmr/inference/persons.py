"""The people that a run is about: whose box in which image, and the square crop and camera that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from adhmr.body.camera import compose_intrinsics
from adhmr.data.boxes import PERSON_OVER_JOINTS, Box, check_inside
from adhmr.data.transforms import square_affine, warp
from adhmr.errors import AdhmrError
from adhmr.inference.images import image_size


@dataclass(frozen=True)
class Person:
    """One person of one image."""

    image: Path
    number: int  # among the people of the image
    box: Box
    box_of: Literal["person", "image", "joints"]  # what it holds: a person's outline, the whole image, the body joints
    size: tuple[int, int]  # of the upright image: width, height
    padding: float  # side of the crop over the longer side of the box of the joints, as in training
    focal: float  # pixels of the image

    @property
    def name(self) -> str:
        """Names the person's outputs and keys the random numbers."""
        return f"{self.image.stem}-{self.number}"

    @property
    def intrinsics(self) -> np.ndarray:
        """(3, 3) of the image: the principal point is its middle."""
        width, height = self.size
        return np.array([[self.focal, 0, width / 2], [0, self.focal, height / 2], [0, 0, 1]])

    @property
    def side(self) -> float:
        """Of the square crop, in pixels of the image; a whole image is one crop as it is."""
        longer = max(self.box[2] - self.box[0], self.box[3] - self.box[1])
        return longer * {"person": self.padding / PERSON_OVER_JOINTS, "image": 1.0, "joints": self.padding}[self.box_of]

    def affine(self, size: int) -> np.ndarray:
        """(2, 3) from pixels of the image to those of a square crop of `size` pixels about the box."""
        return square_affine((np.array(self.box[:2]) + self.box[2:]) / 2, self.side, 0.0, size)

    def crop(self, image: np.ndarray, size: int) -> np.ndarray:
        """(size, size, 3) uint8 of the person's image (H, W, 3); black beyond the image."""
        return np.ascontiguousarray(warp(image, self.affine(size), (size, size)).transpose(1, 2, 0))

    def crop_intrinsics(self, size: int) -> np.ndarray:
        """(3, 3) of a crop of `size` pixels."""
        return compose_intrinsics(self.affine(size), self.intrinsics)


def find_persons(
    images: Sequence[Path], boxes: dict[str, list[Box]] | None, source: str, padding: float, focal: float | None
) -> list[Person]:
    """Everybody, in the order of the images and of their boxes.

    Args:
        images: files, see `find_images`.
        boxes: of people, by file name; an image without a box shows nobody. None: each image shows one person.
        source: names the boxes in errors.
        padding: see `Person`.
        focal: pixels; None for the diagonal of the image, the usual guess for a camera that is not known.

    Raises:
        AdhmrError: an image that cannot be read, a box outside its image, boxes of an image that is not among `images`.
    """
    if boxes is not None:
        unknown = sorted(set(boxes) - {path.name for path in images})
        if unknown:
            more = f" and of {len(unknown) - 1} more" if len(unknown) > 1 else ""
            raise AdhmrError(f"{source}: has boxes of {unknown[0]}{more}, which is not among the images given")
    people = []
    for path in images:
        size = image_size(path)
        camera = {"size": size, "padding": padding, "focal": focal or float(np.hypot(*size))}
        if boxes is None:
            people.append(Person(path, 0, (0.0, 0.0, float(size[0]), float(size[1])), "image", **camera))
            continue
        for number, box in enumerate(boxes.get(path.name, [])):
            check_inside(box, size, f"{source}, box {number} of {path.name}")
            people.append(Person(path, number, box, "person", **camera))
    return people
