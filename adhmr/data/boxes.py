"""Where people are: person boxes from a JSON or CSV file, or from the command line. Detecting people is not done here.

A box is (x0, y0, x1, y1) in continuous pixels of the upright image, the left upper corner of which is (0, 0).
"""

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from adhmr.errors import AdhmrError

Box = tuple[float, float, float, float]

#: Longer side of the box of a person's outline over that of the body joints: measured on rendered people, 1.14 to 1.19.
PERSON_OVER_JOINTS = 1.16

CSV_COLUMNS = ("image", "x0", "y0", "x1", "y1")
_FORMS = (
    'expected {"image.jpg": [[x0, y0, x1, y1], ...]}, [{"file_name": "image.jpg", "bbox": [x, y, width, height]}, ...]'
    f", or a .csv with the columns {', '.join(CSV_COLUMNS)}"
)


def read_boxes(path: Path, folders: bool = False) -> dict[str, list[Box]]:
    """Boxes by image name, in the order of the file. A path in the file counts by its last part, or with `folders` as
    it stands.

    Three forms: a JSON object from image names to lists of corners; a JSON list of COCO-like rows with `file_name` (or
    `image`) and `bbox` as x, y, width, height; a .csv with a head line and the columns image, x0, y0, x1, y1.

    Raises:
        AdhmrError: names the file and its row when it has another form, and for a box that is no box.
    """
    boxes: dict[str, list[Box]] = {}
    for name, box in _read(path):
        mine = boxes.setdefault(PurePath(name).as_posix() if folders else PurePath(name).name, [])
        if box is not None:
            mine.append(box)
    return boxes


def _read(path: Path) -> Iterator[tuple[str, Box | None]]:
    """(name, box) as the file has them; None for an image that has none."""
    if not path.is_file():
        raise AdhmrError(f"{path}: no such file of boxes")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            return _from_csv(path, text)
        content = json.loads(text)
    except UnicodeDecodeError as error:
        raise AdhmrError(f"{path}: not a text file; {_FORMS}") from error
    except json.JSONDecodeError as error:
        raise AdhmrError(f"{path}, line {error.lineno}: not JSON ({error.msg}); {_FORMS}") from error
    if isinstance(content, dict):
        return _from_object(path, content)
    if isinstance(content, list):
        return _from_rows(path, content)
    raise AdhmrError(f"{path}: {_FORMS}")


def parse_box(text: str) -> Box:
    """The box of a text like "x0,y0,x1,y1"; raises AdhmrError for any other."""
    return make_box(text.split(","), f"--box {text}")


def make_box(corners: Any, place: str) -> Box:
    """Four numbers as a box; `place` names it in the AdhmrError for anything else."""
    box = _four_numbers(corners, place, "x0, y0, x1, y1")
    if box[2] - box[0] < 1 or box[3] - box[1] < 1:
        raise AdhmrError(f"{place}: the box {_shown(box)} is less than a pixel wide or high; expected x0 < x1, y0 < y1")
    return box


def check_inside(box: Box, size: tuple[int, int], place: str) -> None:
    """Raise AdhmrError when a box has no part in an image of (width, height) pixels; it may reach beyond the edges."""
    if box[0] >= size[0] or box[1] >= size[1] or box[2] <= 0 or box[3] <= 0:
        raise AdhmrError(f"{place}: the box {_shown(box)} lies outside the image of {size[0]} x {size[1]} pixels")


def _from_object(path: Path, content: dict[str, Any]) -> Iterator[tuple[str, Box | None]]:
    for name, rows in content.items():
        if not isinstance(rows, list):
            raise AdhmrError(f"{path}, '{name}': found {_brief(rows)} for a list of boxes; {_FORMS}")
        yield name, None
        for number, row in enumerate(rows):
            yield name, make_box(row, f"{path}, '{name}', box {number}")


def _from_rows(path: Path, content: list[Any]) -> Iterator[tuple[str, Box]]:
    for number, row in enumerate(content):
        place = f"{path}, row {number}"
        name = (row.get("file_name") or row.get("image")) if isinstance(row, dict) else None
        if not isinstance(name, str) or "bbox" not in row:
            raise AdhmrError(f"{place}: found {_brief(row)}; {_FORMS}")
        x, y, width, height = _four_numbers(row["bbox"], f"{place}, bbox", "x, y, width, height")
        yield name, make_box((x, y, x + width, y + height), place)


def _from_csv(path: Path, text: str) -> Iterator[tuple[str, Box]]:
    reader = csv.DictReader(text.splitlines())
    missing = [name for name in CSV_COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise AdhmrError(f"{path}: has no column '{missing[0]}'; its first line must be {','.join(CSV_COLUMNS)}")
    for row in reader:
        yield row["image"], make_box([row[name] for name in CSV_COLUMNS[1:]], f"{path}, line {reader.line_num}")


def _four_numbers(values: Any, place: str, names: str) -> tuple[float, float, float, float]:
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != 4 or isinstance(values, str) or not all(map(math.isfinite, numbers)):
        raise AdhmrError(f"{place}: expected four numbers {names}, found {_brief(values)}")
    return numbers


def _shown(box: Box) -> str:
    return "[" + ", ".join(f"{value:g}" for value in box) + "]"


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
