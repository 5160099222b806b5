"""JSON annotations with only the chosen people: COCO's and those like them, ScoreHypo's lists, and NeuralAnnot's fits
by the number of the annotation. HumanData is in filter_human_data.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adhmr.atomic_file import write_atomically
from adhmr.cleaning.kept_people import Kept, chosen_rows, people_of, write_mask
from adhmr.data.sources.neural_annot import FIT_KINDS
from adhmr.errors import AdhmrError


def filter_json(folder: str | Path, path: Path, people: Mapping[str, Kept], output: Path, mask: bool) -> str:
    """Writes the copy, or the mask, and says what was kept. Raises AdhmrError for no such file, and for another one
    than `folder` was converted from."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise AdhmrError(f"{path}: not readable JSON ({error}); get the file again") from None
    if _are_fits(content):  # of all people, whichever file lists them
        numbers = {str(number) for kept in people.values() for number in kept.annotations}
        fits = {name: fit for name, fit in content.items() if name in numbers}
        return _write(path, fits, list(map(int, fits)), f"{len(fits):,} of {len(content):,} fits", output, mask)
    listed = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(listed, list):
        raise AdhmrError(
            f"{path}: expected an object with the list 'annotations', a list of people, or {' or '.join(FIT_KINDS)} by "
            "the number of the annotation"
        )
    kept = people_of(folder, people, path)
    if kept.rows:
        chosen = chosen_rows(path, kept.rows, len(listed))
        if mask:
            return write_mask(path, chosen, output)
    else:
        chosen = np.array([one.get("id") in kept.annotations for one in listed], bool)
        if chosen.sum() != len(kept.annotations):
            raise AdhmrError(
                f"{path}: has {chosen.sum()} of the {len(kept.annotations)} annotations of {folder}: not the file that "
                "it was"
            )
    chosen_people = _of(listed, chosen)
    said = f"{len(chosen_people):,} of {len(listed):,} people"
    if isinstance(content, list):
        return _write(path, chosen_people, [], said, output, mask)
    result = content | {"annotations": chosen_people}
    images = content.get("images", [])
    if kept.rows and len(images) == len(listed) and not any("id" in one for one in images):
        result["images"] = _of(images, chosen)  # ScoreHypo's: images without a number stand beside their people
    return _write(path, result, [one.get("id") for one in chosen_people], said, output, mask)


def _of(listed: list[Any], chosen: np.ndarray) -> list[Any]:
    return [one for one, keep in zip(listed, chosen, strict=True) if keep]


def _are_fits(content: Any) -> bool:
    """Whether it is an object of NeuralAnnot's fits by the number of an annotation."""
    first = next(iter(content.values()), None) if isinstance(content, dict) else None
    return isinstance(first, dict) and any(kind in first for kind in FIT_KINDS)


def _write(path: Path, result: Any, numbers: list[int], said: str, output: Path, mask: bool) -> str:
    """The filtered file, or as a mask the numbers of its annotations."""
    target = output / (f"{path.stem}-kept.json" if mask else path.name)
    write_atomically(target, json.dumps(numbers if mask else result))
    return f"{target}: {said}"
