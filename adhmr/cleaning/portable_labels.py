"""The labels of a shard folder in pixels of an image that other programs can open: the stored crop, or the image that
the owners distribute. How such labels are written is in export_human_data.py and export_coco.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from adhmr.atomic_file import write_atomically
from adhmr.data.schema import boxed_points, decode_record
from adhmr.data.shard_reader import ShardReader
from adhmr.errors import AdhmrError
from adhmr.progress import track

BOX_OVER_JOINTS = 1.2  # HumanData's margin around the tight box of the joints
NEEDED = {"has_pose": "pose", "has_depth": "place in front of the camera"}


@dataclass(frozen=True, slots=True)
class PortableLabel:
    """One person: units as in the shards, pixels and camera those of `image`."""

    key: str
    image: str  # path below the folder of the images
    size: tuple[int, int]  # height, width of the image
    intrinsics: np.ndarray  # (3, 3)
    joints_px: np.ndarray  # (29, 2); zero where the confidence is
    box: np.ndarray  # (4,) x0, y0, x1, y1
    record: np.void  # its metres, rotations and confidences hold in any image
    provenance: dict[str, Any]


def crops_as_images(reader: ShardReader, folder: Path) -> Iterator[PortableLabel]:
    """Labels in pixels of their stored crops, which are written to `folder`/KEY.jpg, bytes as they are.

    Raises AdhmrError for a label without pose or place, here and below.
    """
    for key, members, record, provenance in _samples(reader):
        write_atomically(folder / f"{key}.jpg", members["jpg"], sync=False)
        height, width = (int(side) for side in record["image_size"])
        intrinsics = record["intrinsics"].astype(np.float64)
        pixels = record["joints29_px"].astype(np.float64)
        box = _box_around(boxed_points(record))
        yield PortableLabel(
            key, f"{key}.jpg", (height, width), intrinsics, _known(pixels, record), box, record, provenance
        )


def in_original_images(reader: ShardReader) -> Iterator[PortableLabel]:
    """Labels in pixels of the images that the set was converted from.

    Raises AdhmrError for a set that was not converted from image files, or whose conversion did not note their sizes.
    """
    for key, _, record, provenance in _samples(reader):
        where = f"{reader.index.folder}, sample {key}"
        image, affine, size = (provenance.get(name) for name in ("image", "affine", "size"))
        if not isinstance(image, str) or affine is None or PurePosixPath(image).suffix == ".tar":
            raise AdhmrError(f"{where}: was not cut from an image file of its own; give --images to export the crops")
        if size is None:
            raise AdhmrError(
                f"{where}: its provenance has no 'size' of the image; convert the set again, or give --images to "
                "export the crops"
            )
        inverse = np.linalg.inv(np.vstack([affine, [0.0, 0.0, 1.0]]))  # crop -> image
        pixels = record["joints29_px"] @ inverse[:2, :2].T + inverse[:2, 2]
        corners = boxed_points(record) @ inverse[:2, :2].T + inverse[:2, 2]
        box = provenance.get("box")
        yield PortableLabel(
            key,
            image,
            (int(size[0]), int(size[1])),
            inverse @ record["intrinsics"],
            _known(pixels, record),
            _box_around(corners) if box is None else np.asarray(box, np.float64),
            record,
            provenance,
        )


def _samples(reader: ShardReader) -> Iterator[tuple[str, dict[str, bytes], np.void, dict[str, Any]]]:
    """key, members, record and provenance of every sample, checked."""
    for row in track(range(len(reader)), f"export {reader.name}", "labels"):
        members = reader.read_members(row)
        record = decode_record(members["npy"])
        missing = [what for flag, what in NEEDED.items() if not record[flag]]
        if missing:
            raise AdhmrError(
                f"{reader.index.folder}, sample {reader.index.keys[row]}: its label has no {' and no '.join(missing)}, "
                "which these formats need; export the output of a clean stage, which keeps whole labels only"
            )
        yield reader.index.keys[row], members, record, json.loads(members.get("json", b"{}"))


def _known(pixels: np.ndarray, record: np.void) -> np.ndarray:
    return np.where(record["joints_conf"][:, None] > 0, pixels, 0.0)


def _box_around(points: np.ndarray) -> np.ndarray:
    """(4,) the tight box of (K, 2) points, larger about its centre by BOX_OVER_JOINTS."""
    low, high = points.min(0), points.max(0)
    centre, half = (low + high) / 2, (high - low) / 2 * BOX_OVER_JOINTS
    return np.concatenate([centre - half, centre + half])
