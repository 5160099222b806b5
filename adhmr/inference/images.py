"""Which image files are meant, and their pixels: upright RGB, as the EXIF orientation says. Crops are in persons.py."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from adhmr.errors import AdhmrError

ENDINGS = (".jpg", ".jpeg", ".png")  # what is taken from a folder; a file given by name may be any that Pillow reads
_TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_ORIENTATION = 0x0112
_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


def find_images(given: Sequence[Path]) -> list[Path]:
    """The files of the paths given, folders replaced by the images that lie directly in them, by name.

    Raises AdhmrError for a path that does not exist, a folder without images, and two images of one name: boxes,
    outputs and random numbers go by the name without its ending.
    """
    files: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in ENDINGS and p.is_file())
            if not inside:
                raise AdhmrError(f"{path}: holds no image; expected files that end in {', '.join(ENDINGS)}")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise AdhmrError(f"{path}: no such image or folder")
    first: dict[str, Path] = {}
    for path in files:
        other = first.setdefault(path.stem, path)
        if other is not path:
            raise AdhmrError(f"{path}: goes by the name '{path.stem}' as {other} does; rename one or use two runs")
    return files


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of the upright image, from the head of the file.

    Raises AdhmrError for a file that is no image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION) in _TURNED
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error
    return (height, width) if turned else (width, height)


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright. Raises AdhmrError for a file that is no image or not a whole one."""
    try:
        with Image.open(path) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> AdhmrError:
    return AdhmrError(f"{path}: cannot be read as an image ({error}); expected a whole JPEG or PNG file")
