"""NeuralAnnot's SMPL-X and SMPL fits, as OSX's annotation files hold them: rows of numbers, and labels made of them.

Which people they belong to is said by the sources: human36m_osx.py, keypoints_with_fits.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adhmr.data.sources.person import SmplLabel, SmplxLabel
from adhmr.errors import AdhmrError

#: key -> how many numbers: radians, but for shape and expression, and metres for trans. Hands are relative to the mean.
PARTS = {
    "root_pose": 3,
    "body_pose": 63,
    "shape": 10,
    "trans": 3,
    "lhand_pose": 45,
    "rhand_pose": 45,
    "jaw_pose": 3,
    "expr": 10,
}
NEEDED = ("root_pose", "body_pose", "shape", "trans")
#: The same of the releases with SMPL's parameters; all are needed.
SMPL_PARTS = {"pose": 72, "shape": 10, "trans": 3}
FIT_KINDS = ("smplx_param", "smpl_param")  # names of the two in an annotation's entry
_STOPS = np.cumsum(list(PARTS.values()))


def fit_row(fit: Any, path: Path, name: str) -> np.ndarray:
    """One fit as (182,) float32, NaN for the parts that it may lack, or (85,) if it is SMPL's, which has `pose`; `path`
    and `name` say in errors whose it is.

    Raises AdhmrError for a key that is missing or holds another number of numbers.
    """
    if not isinstance(fit, Mapping):
        raise AdhmrError(f"{path}, {name}: found {type(fit).__name__}, expected an object of {', '.join(PARTS)}")
    parts = []
    expected, needed, model = (SMPL_PARTS, SMPL_PARTS, "SMPL") if "pose" in fit else (PARTS, NEEDED, "SMPL-X")
    for key, count in expected.items():
        if fit.get(key) is None:
            if key in needed:
                raise AdhmrError(f"{path}, {name}: the fit has no '{key}'; expected NeuralAnnot's {model} parameters")
            parts.append(np.full(count, np.nan, np.float32))
            continue
        numbers = np.asarray(fit[key], np.float32).ravel()
        if len(numbers) != count:
            raise AdhmrError(f"{path}, {name}: '{key}' has {len(numbers)} numbers, expected {count}")
        parts.append(numbers)
    return np.concatenate(parts)


def fit_label(row: np.ndarray) -> SmplxLabel | SmplLabel:
    """The label of a fit_row."""
    if len(row) == sum(SMPL_PARTS.values()):
        pose, shape, trans = np.split(row, np.cumsum(list(SMPL_PARTS.values()))[:-1])
        return SmplLabel(pose.reshape(24, 3), shape, trans)
    root, body, shape, trans, left, right, jaw, expression = np.split(row, _STOPS[:-1])
    known = not np.isnan(np.concatenate([left, right])).any()
    return SmplxLabel(
        root=root,
        body=body.reshape(21, 3),
        betas=shape,
        transl=trans,
        hands=np.stack([left, right]).reshape(2, 15, 3) if known else None,
        jaw=None if np.isnan(jaw).any() else jaw,
        expression=None if np.isnan(expression).any() else expression,
    )
