"""Reading SMPL-X files (Pavlakos et al. 2019), .npz or .pkl as the official site gives them, into plain arrays.

What they share with SMPL's files is in body_file.py, the maths and the joint maps in smplx_body.py.
"""

from pathlib import Path
from typing import Any

import numpy as np
from smplx.vertex_ids import vertex_ids

from adhmr.body.body_file import BodyFormat, load_arrays
from adhmr.body.skeleton import PARENTS
from adhmr.errors import AdhmrError

NUM_SKELETON_JOINTS = 22
"""Joints 0 to 21, pelvis to wrists, are SMPL's."""
NUM_COMPONENTS = 10
"""Of shape and of expression each: what is used of the up to 300 and 100 that a file holds."""

_HEAD, _LEFT_WRIST, _RIGHT_WRIST = 15, 20, 21


def _finger_parents(wrist: int, first: int) -> tuple[int, ...]:
    """Index, middle, little, ring finger and thumb: three joints each, one after the other from the wrist."""
    return tuple(parent for start in range(first, first + 15, 3) for parent in (wrist, start, start + 1))


_PARENTS = (
    *PARENTS[:NUM_SKELETON_JOINTS],
    *(_HEAD, _HEAD, _HEAD),  # jaw, left eye, right eye
    *_finger_parents(_LEFT_WRIST, 25),
    *_finger_parents(_RIGHT_WRIST, 40),
)
SMPLX_FORMAT = BodyFormat("SMPL-X", _PARENTS, 10475, "smplx")

_EXPRESSION_START = {20: 10, 400: 300}  # columns of shapedirs -> the first that is an expression's
_HAND_MEANS = ("hands_meanl", "hands_meanr")
_LEAF_NAMES = ("lmiddle", "rmiddle", "LBigToe", "RBigToe")  # after the head top; smplx's names


def load_smplx_file(path: str | Path) -> dict[str, Any]:
    """Read an SMPL-X file.

    Returns:
        as `load_body_file`, with 55 joints and `posedirs (V, 3, 486)`; `shapedirs (V, 3, 10)` and `expression_dirs
        (V, 3, 10)`, cut out of the file's columns; `file_components` (of shape, of expression: what the file holds);
        `mean_hands (2, 45)`, axis-angle of the left and right hand's 15 joints at rest; and `extra_vertices` by
        smplx's names, which a mesh of 10,475 vertices need not name. Such a mesh's head top is its highest vertex.

    Raises:
        AdhmrError: no such file, not SMPL-X's format, or a pickle with a class that no body file needs.
    """
    path = Path(path)
    arrays, further = load_arrays(path, SMPLX_FORMAT, _HAND_MEANS)
    shapedirs = arrays["shapedirs"]
    columns = shapedirs.shape[2]
    if columns not in _EXPRESSION_START:
        raise AdhmrError(
            f"{path}: 'shapedirs' has {columns} components, expected 20 (10 of shape, 10 of expression) or 400 "
            "(300 and 100)"
        )
    start = _EXPRESSION_START[columns]
    arrays["file_components"] = (start, columns - start)
    arrays["shapedirs"] = np.ascontiguousarray(shapedirs[..., :NUM_COMPONENTS])
    arrays["expression_dirs"] = np.ascontiguousarray(shapedirs[..., start : start + NUM_COMPONENTS])
    try:
        means = [np.asarray(further[key], np.float32).reshape(45) for key in _HAND_MEANS]
    except KeyError as error:
        raise AdhmrError(f"{path}: missing {error.args[0]}; an SMPL-X file has both hands' mean pose") from error
    except (TypeError, ValueError) as error:
        raise AdhmrError(f"{path}: the hands' mean poses are not 45 numbers each: {error}") from error
    arrays["mean_hands"] = np.stack(means)

    if len(arrays["v_template"]) == SMPLX_FORMAT.num_vertices:
        official = vertex_ids["smplx"]
        arrays["extra_vertices"] = official | arrays["extra_vertices"]
        head_top = int(arrays["v_template"][:, 1].argmax())
        arrays.setdefault("leaf_vertices", np.array([head_top, *(official[name] for name in _LEAF_NAMES)], np.int64))
    return arrays
