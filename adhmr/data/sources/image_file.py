"""Reading the images of a release: size from the header, pixels at full size or, where a crop will be small, shrunk
while they are decoded."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from PIL import Image

_JPEG = b"\xff\xd8\xff"


class ImageFile:
    """One image file in memory. size: (height, width).

    EXIF orientation is not applied: labels are in the pixels as they are stored.

    Raises FileNotFoundError, and ValueError when the file is no image.
    """

    def __init__(self, path: Path) -> None:
        self._data = path.read_bytes()
        self._pixels: np.ndarray | None = None
        if self._data.startswith(_JPEG):
            height, width, *_ = simplejpeg.decode_jpeg_header(self._data)
            self.size = (int(height), int(width))
        else:
            self._pixels = cv2.imdecode(
                np.frombuffer(self._data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
            )
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


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) from the header alone; raises OSError when it is no image."""
    with Image.open(path) as image:
        return image.height, image.width
