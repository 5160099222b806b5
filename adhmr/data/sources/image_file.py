"""Reading the images of a release: size from the header, pixels at full size or, where a crop will be small, shrunk
while they are decoded."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageOps

_JPEG = b"\xff\xd8\xff"
_ORIENTATION = 0x0112  # of EXIF
_SIDEWAYS = (5, 6, 7, 8)  # orientations that exchange width and height


class ImageFile:
    """One image in memory: a file, or the bytes of a span (first, how many) of one. size: (height, width).

    EXIF orientation is applied only if asked for (`upright`): most labels are in the pixels as they are stored.

    Raises FileNotFoundError, and ValueError when the file is no image.
    """

    def __init__(self, path: Path, span: tuple[int, int] | None = None, upright: bool = False) -> None:
        self._data = read_span(path, span)
        self._pixels: np.ndarray | None = None
        if upright and _turned(self._data):
            self._pixels = _upright_pixels(self._data)
            self.size = self._pixels.shape[:2]
        elif self._data.startswith(_JPEG):
            height, width, *_ = simplejpeg.decode_jpeg_header(self._data)
            self.size = (int(height), int(width))
        else:
            flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
            # OpenCV raises for no bytes at all, and answers None for others that are no image.
            self._pixels = cv2.imdecode(np.frombuffer(self._data, np.uint8), flags) if self._data else None
            if self._pixels is None:
                raise ValueError("it is no image that OpenCV reads")
            self._pixels = cv2.cvtColor(self._pixels, cv2.COLOR_BGR2RGB)
            self.size = self._pixels.shape[:2]

    def pixels(self, scale: float) -> tuple[np.ndarray, float]:
        """(H, W, 3) uint8 RGB, and the factor by which it is smaller than the file, `scale` at least: a JPEG's decoder
        can leave out every other pixel, or more, at a fraction of the cost.

        Raises ValueError when the data do not decode.
        """
        if self._pixels is not None:
            return self._pixels, 1.0
        height, width = self.size
        for factor in (8, 4, 2):  # sizes that divide keep pixel edges where they are
            if 1 / factor >= scale and height % factor == 0 and width % factor == 0:
                least = (height // factor, width // factor)
                image = simplejpeg.decode_jpeg(self._data, "RGB", min_height=least[0], min_width=least[1])
                return image, image.shape[0] / height
        return simplejpeg.decode_jpeg(self._data, "RGB"), 1.0


def read_span(path: Path, span: tuple[int, int] | None) -> bytes:
    """The bytes of a file, or of a part of it: first byte and how many."""
    if span is None:
        return path.read_bytes()
    with path.open("rb") as file:
        file.seek(span[0])
        return file.read(span[1])


def image_size(path: Path, span: tuple[int, int] | None = None, upright: bool = False) -> tuple[int, int]:
    """(height, width) from the header alone; raises OSError when it is no image."""
    with Image.open(path if span is None else io.BytesIO(read_span(path, span))) as image:
        turned = upright and image.getexif().get(_ORIENTATION) in _SIDEWAYS
        return (image.width, image.height) if turned else (image.height, image.width)


def _turned(data: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.getexif().get(_ORIENTATION, 1) != 1
    except OSError:
        return False


def _upright_pixels(data: bytes) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except OSError as error:
        raise ValueError(str(error)) from error
