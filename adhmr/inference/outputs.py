"""What is written of a person: parameters, meshes and pictures, as one folder that appears by rename."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from adhmr.atomic_file import sync_folder
from adhmr.errors import AdhmrError
from adhmr.inference.persons import Person
from adhmr.inference.predictor import Prediction
from adhmr.visualization.drawing import draw_skeleton, draw_text, grid
from adhmr.visualization.mesh_files import encode_mesh
from adhmr.visualization.rasterizer import render_mesh, render_mesh_side

OVERLAY_LIMIT = 2048  # pixels of the longer side of an overlay
SHEET_COLUMNS = 5  # hypotheses on a sheet
CELL = 256  # pixels a side of a picture on it
JPEG_QUALITY = 92
PARAMETERS = "parameters.npz"


def write_person(
    folder: Path,
    person: Person,
    image: np.ndarray,
    prediction: Prediction,
    faces: np.ndarray,
    request: Mapping[str, Any],
    meshes: str,
    save_hypotheses: int,
) -> None:
    """Write parameters.npz, overlay.jpg, sheet.jpg and the mesh files of one person, in place of a former folder.

    Args:
        folder: of this person alone; it appears whole or not at all.
        image: the whole image, (H, W, 3) uint8.
        faces: (F, 3) of the body.
        request: what the content depends on; `written_request` gives it back.
        meshes: "obj", "glb" or "none".
        save_hypotheses: the first so many are written as meshes.

    Raises:
        AdhmrError: the folder cannot be written.
    """
    files = {
        PARAMETERS: _parameters(person, prediction, request),
        "overlay.jpg": _jpeg(overlay(person, image, prediction, faces)),
        "sheet.jpg": _jpeg(sheet(person, image, prediction, faces)),
    }
    if meshes != "none":
        width = len(str(save_hypotheses - 1))
        for rank, vertices in enumerate(prediction.vertices[:save_hypotheses]):
            files[f"mesh-{rank:0{width}}.{meshes}"] = encode_mesh(vertices, faces, meshes)
    try:
        _write_folder(folder, files)
    except OSError as error:
        raise AdhmrError(f"{folder}: cannot be written ({error.strerror}); choose another --output") from error


def written_request(folder: Path) -> dict[str, Any] | None:
    """The request that a person's folder was made for; None for a folder that is something else."""
    try:
        with np.load(folder / PARAMETERS, allow_pickle=False) as stored:
            return json.loads(str(stored["request"]))
    except (OSError, ValueError, KeyError):
        return None


def overlay(person: Person, image: np.ndarray, prediction: Prediction, faces: np.ndarray) -> np.ndarray:
    """The first hypothesis over the whole image, (h, w, 3) uint8; images of more than 2048 pixels are made smaller."""
    scale = min(1.0, OVERLAY_LIMIT / max(person.size))
    size = round(person.size[0] * scale), round(person.size[1] * scale)
    if scale < 1.0:
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    stretch = np.diag([size[0] / person.size[0], size[1] / person.size[1], 1.0])
    return render_mesh(image, prediction.vertices[0], faces, stretch @ person.intrinsics)


def sheet(person: Person, image: np.ndarray, prediction: Prediction, faces: np.ndarray) -> np.ndarray:
    """The crop, and below it the first hypothesis' joints; then hypotheses over the crop, and below from the side."""
    crop = person.crop(image, CELL)
    intrinsics = person.crop_intrinsics(CELL)
    arrays = prediction.arrays
    shift = person.affine(CELL)
    joints = arrays["joints29_px"][0] @ shift[:, :2].T + shift[:, 2]
    above = [draw_text(crop, person.name)]
    below = [draw_text(draw_skeleton(crop, joints), "joints of the first")]
    for rank, vertices in enumerate(prediction.vertices[:SHEET_COLUMNS]):
        title = f"hypothesis {arrays['hypothesis'][rank]}"
        if "scores" in arrays:
            title += f", score {arrays['scores'][rank]:.3f}"
        above.append(draw_text(render_mesh(crop, vertices, faces, intrinsics), title))
        below.append(draw_text(render_mesh_side(vertices, faces, CELL), "from the side"))
    return grid(above + below, columns=len(above))


def _parameters(person: Person, prediction: Prediction, request: Mapping[str, Any]) -> bytes:
    arrays = {
        **prediction.arrays,
        "box": np.array(person.box, np.float32),
        "image_size": np.array(person.size[::-1], np.int64),
        "request": np.array(json.dumps(request)),
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def _write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Fills a hidden folder beside `folder`, then exchanges them: a reader or a crash never sees a part."""
    temporary, former = folder.with_name(f".{folder.name}.tmp"), folder.with_name(f".{folder.name}.former")
    for leftover in (temporary, former):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, content in files.items():
        with open(temporary / name, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    sync_folder(temporary)
    if folder.exists():
        os.rename(folder, former)
    os.rename(temporary, folder)
    sync_folder(folder.parent)
    shutil.rmtree(former, ignore_errors=True)
