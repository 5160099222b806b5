"""Writing pictures: of the kind that the name's ending says, complete or not at all."""

from pathlib import Path

import cv2
import numpy as np

from adhmr.atomic_file import write_atomically
from adhmr.errors import AdhmrError

ENDINGS = (".jpg", ".jpeg", ".png")


def write_picture(path: str | Path, image: np.ndarray) -> Path:
    """Write an (H, W, 3) uint8 RGB image; the folder is made. Raises AdhmrError when it cannot be written."""
    path = Path(path)
    if path.suffix.lower() not in ENDINGS:
        raise AdhmrError(f"{path}: the picture cannot be written; use a name that ends in .jpg or .png")
    content = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
    try:
        write_atomically(path, content)
    except OSError as error:
        raise AdhmrError(f"{path}: the picture cannot be written ({error.strerror})") from None
    return path
