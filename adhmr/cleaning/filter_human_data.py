"""A HumanData file with only the chosen people; every array, list and dictionary that has one entry a person is cut,
all else stays. Reading is in adhmr/data/sources/human_data.py."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from adhmr.atomic_file import write_atomically
from adhmr.cleaning.kept_people import Kept, chosen_rows, write_mask
from adhmr.data.sources.human_data import NUM_KEYPOINTS
from adhmr.data.sources.numpy_file import NumpyArchive
from adhmr.errors import AdhmrError


def filter_human_data(path: Path, kept: Kept, output: Path, mask: bool) -> str:
    """Writes the copy, or the mask, and says what was kept."""
    archive = NumpyArchive(path)
    if "image_path" not in archive:
        raise AdhmrError(f"{path}: there is no key 'image_path'; expected a HumanData file of mmhuman3d")
    count = len(archive["image_path"])
    chosen = chosen_rows(path, kept.rows, count)
    if mask:
        return write_mask(path, chosen, output)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: _member(name, archive[name], chosen) for name in archive})
    write_atomically(output / path.name, buffer.getvalue())
    return f"{output / path.name}: {chosen.sum():,} of {count:,} people"


def _member(name: str, value: Any, chosen: np.ndarray) -> Any:
    """A member of the archive for the chosen people; masks are of keypoints, whatever the number of people."""
    if name.endswith("_mask") and np.shape(value) == (NUM_KEYPOINTS,):
        return value
    filtered = _rows_of(value, chosen)
    if isinstance(filtered, dict):
        array = np.empty((), object)
        array[()] = filtered
        return array
    return filtered


def _rows_of(value: Any, chosen: np.ndarray) -> Any:
    """What has one entry a person, of the chosen; dictionaries entry by entry; all else as it is."""
    if isinstance(value, dict):
        return {name: _rows_of(part, chosen) for name, part in value.items()}
    if isinstance(value, np.ndarray) and value.ndim and len(value) == len(chosen):
        return value[chosen]
    if isinstance(value, list | tuple) and len(value) == len(chosen):
        return type(value)(part for part, keep in zip(value, chosen, strict=True) if keep)
    return value
