"""The stored crop: a person with context cut from the image, at most so many pixels a side, and the record in its
pixels. Which crop the network sees is adhmr.data.transforms' affair."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from adhmr.body.skeleton import NUM_BODY_JOINTS
from adhmr.data.schema import boxed_points
from adhmr.data.transforms import averaged_pixels, warped

LEAST_SIDE = 24  # pixels of the person in the original image
LEAST_INSIDE = 6  # of the 24 body joints in the picture


@dataclass(frozen=True)
class ContextCrop:
    """side: pixels of the stored crop at most. context: its side over the longer side of the tight box of the body
    joints; 2 leaves room for padding 1.5 and augmentation by a third."""

    side: int = 384
    context: float = 2.0

    def box(self, record: np.void, shape: tuple[int, int]) -> tuple[float, float, float] | str:
        """x0, y0 and side of the square to cut from an image (height, width), or why there is none."""
        points = boxed_points(record)
        height, width = shape
        if record["joints_conf"][:NUM_BODY_JOINTS].any():
            inside = ((points >= 0) & (points < [width, height])).all(1).sum()
            if inside < LEAST_INSIDE:
                return "too few of its joints are in the picture"
        elif (points.min(0) >= [width, height]).any() or (points.max(0) <= 0).any():
            return "its box is not in the picture"
        # Joints far outside (a close-up's feet) would make the box mostly black.
        points = np.clip(points, [-0.25 * width, -0.25 * height], [1.25 * width, 1.25 * height])
        low, high = points.min(0), points.max(0)
        if (high - low).max() < LEAST_SIDE:
            return "it is too small in the picture"
        side = float(np.ceil((high - low).max() * self.context))
        centre = (low + high) / 2
        # Whole pixels: a crop that is not scaled copies pixels and changes none.
        return float(np.round(centre[0] - side / 2)), float(np.round(centre[1] - side / 2)), side

    def scale(self, side: float) -> float:
        """Stored pixels a pixel of the image; crops are never enlarged."""
        return min(1.0, self.side / side)

    def cut(self, image: np.ndarray, shrunk: float, box: tuple[float, float, float]) -> np.ndarray:
        """The crop (S, S, 3) uint8 of an image that was decoded at `shrunk` times its size; black outside."""
        size = round(box[2] * self.scale(box[2]))
        x, y, side = (value * shrunk for value in box)
        scale = size / side
        if scale == 1.0 and x.is_integer() and y.is_integer():
            return _padded_slice(image, int(x), int(y), size)
        # A margin, so that the crop's edge is sampled from pixels; and so many that averaging leaves no rest, which is
        # ten times as fast.
        margin = averaged_pixels(scale)
        left, top, length = int(np.floor(x)) - margin, int(np.floor(y)) - margin, int(np.ceil(side)) + 2 * margin + 1
        part = _padded_slice(image, left, top, length + -length % margin)
        affine = np.array([[scale, 0, (left - x) * scale], [0, scale, (top - y) * scale]])
        return cv2.cvtColor(warped(part, affine, (size, size)), cv2.COLOR_RGBA2RGB)

    def affine(self, box: tuple[float, float, float]) -> np.ndarray:
        """(2, 3) from continuous pixels of the image to those of the crop."""
        x0, y0, side = box
        scale = round(side * self.scale(side)) / side
        return np.array([[scale, 0.0, -x0 * scale], [0.0, scale, -y0 * scale]])

    def moved(self, record: np.void, box: tuple[float, float, float]) -> np.void:
        """The record with pixels, camera and size of the crop."""
        affine = self.affine(box)
        moved = record.copy()
        moved["joints29_px"] = record["joints29_px"] @ affine[:, :2].T + affine[:, 2]
        moved["intrinsics"] = np.vstack([affine, [0.0, 0.0, 1.0]]) @ record["intrinsics"]
        moved["image_size"] = round(box[2] * self.scale(box[2]))
        return moved


def _padded_slice(image: np.ndarray, left: int, top: int, size: int) -> np.ndarray:
    """image[top : top + size, left : left + size], with zeros where the image ends."""
    x, y = max(left, 0), max(top, 0)
    part = image[y : max(top + size, 0), x : max(left + size, 0)]
    if part.shape[:2] == (size, size):
        return part
    result = np.zeros((size, size, 3), np.uint8)
    result[y - top : y - top + part.shape[0], x - left : x - left + part.shape[1]] = part
    return result
