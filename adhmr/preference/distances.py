"""How far apart hypotheses of an image are, in pixels: the mean over the joints, depth scaled as in the codec of x0.
On arrays of the host; the ranking `mode` (rankings.py) has the same distance on the device."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist


def joint_distance(first: np.ndarray, second: np.ndarray, crop_size: int) -> np.ndarray:
    """Of uvd (..., 29, 3) and uvd: (...) pixels. A metre of depth counts as half a crop."""
    return np.linalg.norm(_in_pixels(first, crop_size) - _in_pixels(second, crop_size), axis=-1).mean(-1)


def distance_matrix(uvd: np.ndarray, crop_size: int) -> np.ndarray:
    """(M, M) pixels between the hypotheses uvd (M, 29, 3) of one image."""
    joints = _in_pixels(uvd, crop_size).swapaxes(0, 1)  # (29, M, 3)
    total = np.zeros((len(uvd), len(uvd)))
    for joint in joints:  # one after the other: memory is that of the result
        total += cdist(joint, joint)
    return total / len(joints)


def _in_pixels(uvd: np.ndarray, crop_size: int) -> np.ndarray:
    return uvd * np.array([1.0, 1.0, crop_size / 2.0])
