"""Drawing skeletons and text on images, and laying images out in a grid. Meshes are in rasterizer.py."""

from collections.abc import Sequence

import cv2
import numpy as np

from adhmr.body.skeleton import JOINT_NAMES, PARENTS

LEFT_COLOUR = (80, 160, 255)
RIGHT_COLOUR = (255, 120, 60)
MIDDLE_COLOUR = (120, 230, 120)
_SUBPIXEL_BITS = 4


def draw_skeleton(
    image: np.ndarray,
    joints_px: np.ndarray,
    confidence: np.ndarray | None = None,
    colour: tuple[int, int, int] | None = None,
    thickness: int = 1,
) -> np.ndarray:
    """A copy of an (H, W, 3) uint8 RGB image with the bones between (29, 2) joints in continuous pixels.

    Without a `colour`, the person's left is blue, the right orange and the middle green. Joints whose confidence (29,)
    is zero are left out, and so are joints that are not finite.
    """
    image = np.ascontiguousarray(image).copy()
    joints_px = np.asarray(joints_px, np.float64)
    drawn = np.isfinite(joints_px).all(-1)
    # Far outside the picture OpenCV's fixed-point coordinates would overflow.
    drawn &= np.abs(np.where(drawn[:, None], joints_px, 0)).max(-1) < 1e5
    if confidence is not None:
        drawn &= np.asarray(confidence) > 0
    # OpenCV counts from pixel centres, in fixed point.
    points = np.round((np.where(drawn[:, None], joints_px, 0) - 0.5) * 2**_SUBPIXEL_BITS).astype(int)
    style = {"lineType": cv2.LINE_AA, "shift": _SUBPIXEL_BITS}
    for joint, parent in enumerate(PARENTS):
        if parent >= 0 and drawn[joint] and drawn[parent]:
            shade = colour or _side_colour(joint)
            cv2.line(image, points[parent].tolist(), points[joint].tolist(), shade, thickness, **style)
    radius = (thickness + 1) * 2 ** (_SUBPIXEL_BITS - 1)
    for joint in np.flatnonzero(drawn):
        cv2.circle(image, points[joint].tolist(), radius, colour or _side_colour(joint), -1, **style)
    return image


def draw_box(image: np.ndarray, box: Sequence[float], colour: tuple[int, int, int] = (255, 220, 0)) -> np.ndarray:
    """A copy of an (H, W, 3) uint8 RGB image with a rectangle x0, y0, x1, y1 in continuous pixels."""
    image = np.ascontiguousarray(image).copy()
    left, top, right, bottom = (round(value - 0.5) for value in box)
    return cv2.rectangle(image, (left, top), (right, bottom), colour, 1)


def draw_text(image: np.ndarray, text: str, scale: float = 0.35) -> np.ndarray:
    """A copy of an RGB image with one line of text on a dark strip along its lower edge."""
    image = np.ascontiguousarray(image).copy()
    (_, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    image[-(height + below + 2) :] //= 4
    baseline = (2, image.shape[0] - below)
    cv2.putText(image, text, baseline, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA)
    return image


def captioned(image: np.ndarray, text: str, scale: float = 0.38) -> np.ndarray:
    """An RGB image with one line of dark text on a white strip below it."""
    (_, height), below = cv2.getTextSize("Ag", cv2.FONT_HERSHEY_SIMPLEX, scale, 1)  # the same for any text
    strip = np.full((height + below + 5, image.shape[1], 3), 255, np.uint8)
    baseline = (3, height + 3)
    cv2.putText(strip, text, baseline, cv2.FONT_HERSHEY_SIMPLEX, scale, (30, 30, 30), 1, cv2.LINE_AA)
    return np.concatenate([np.asarray(image, np.uint8), strip])


def grid(images: Sequence[np.ndarray], columns: int, gap: int = 2) -> np.ndarray:
    """One RGB image of many of any size, row by row; every cell is as large as the largest image."""
    height = max(image.shape[0] for image in images) + gap
    width = max(image.shape[1] for image in images) + gap
    sheet = np.full((-(-len(images) // columns) * height + gap, columns * width + gap, 3), 30, np.uint8)
    for number, image in enumerate(images):
        top, left = (part * side + gap for part, side in zip(divmod(number, columns), (height, width), strict=True))
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def _side_colour(joint: int) -> tuple[int, int, int]:
    name = JOINT_NAMES[joint].lower()
    if name.startswith(("l_", "left")):
        return LEFT_COLOUR
    return RIGHT_COLOUR if name.startswith(("r_", "right")) else MIDDLE_COLOUR
