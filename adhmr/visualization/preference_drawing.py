"""Drawing preferences: the winners and the losers of an image over its crop, side by side in two colours."""

import cv2
import numpy as np

from adhmr.visualization.drawing import draw_skeleton

SMALLEST_PANEL = 160  # pixels a side: smaller crops are enlarged, so that their text can be read
WINNER_COLOUR, LOSER_COLOUR = (90, 220, 90), (240, 80, 80)


def enlarged(image: np.ndarray) -> tuple[np.ndarray, int]:
    """The image (H, W, 3), a whole number of times as large where it is small, and that number."""
    scale = max(1, -(-SMALLEST_PANEL // image.shape[0]))
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST), scale


def draw_sides(image: np.ndarray, winners: np.ndarray, losers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two copies of a crop, enlarged: with the skeletons of the winners and of the losers, (K, 29, 2) in its pixels."""
    image, scale = enlarged(image)
    panels = []
    for skeletons, colour in ((winners, WINNER_COLOUR), (losers, LOSER_COLOUR)):
        panel = image
        for joints_px in skeletons:
            panel = draw_skeleton(panel, scale * joints_px, colour=colour)
        panels.append(panel)
    return panels[0], panels[1]
