"""Whom of an annotation file a shard folder holds, as its conversion noted it: file, and row or number of the
annotation. The files themselves are filtered in filter_human_data.py and filter_json.py."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adhmr.atomic_file import write_atomically
from adhmr.data.shard_reader import ShardReader
from adhmr.errors import AdhmrError
from adhmr.progress import track


@dataclass(frozen=True)
class Kept:
    """The people of one file, which counts by rows or by annotations: one of the two is empty."""

    rows: frozenset[int]
    annotations: frozenset[int]


def kept_people(folder: str | Path) -> dict[str, Kept]:
    """Whom the folder holds, by the name of the annotation file. Raises AdhmrError for a sample that does not tell."""
    reader = ShardReader(folder)
    rows: dict[str, set[int]] = {}
    annotations: dict[str, set[int]] = {}
    for row in track(range(len(reader)), f"read {reader.name}", "samples"):
        origin = json.loads(reader.read_members(row).get("json", b"{}"))
        name = origin.get("file")
        if not isinstance(name, str) or not ("row" in origin or "annotation" in origin):
            raise AdhmrError(
                f"{folder}, {reader.index.keys[row]}: its provenance names no 'file' with 'row' or 'annotation': "
                "it was not converted from such files, or by an earlier version (convert it again)"
            )
        if "row" in origin:
            rows.setdefault(name, set()).add(origin["row"])
        else:
            annotations.setdefault(name, set()).add(origin["annotation"])
    names = [*rows, *(name for name in annotations if name not in rows)]
    return {name: Kept(frozenset(rows.get(name, ())), frozenset(annotations.get(name, ()))) for name in names}


def people_of(folder: str | Path, people: Mapping[str, Kept], path: Path) -> Kept:
    if path.name not in people:
        raise AdhmrError(
            f"--original {path}: nobody in {folder} is from a file of this name; its people are from "
            f"{', '.join(sorted(people))}"
        )
    return people[path.name]


def chosen_rows(path: Path, rows: frozenset[int], count: int) -> np.ndarray:
    """(count,) bool. Raises AdhmrError for a file that has fewer rows than it had."""
    if max(rows, default=-1) >= count:
        raise AdhmrError(f"{path}: has {count} rows, but a kept sample is from row {max(rows)}: not the file it was")
    chosen = np.zeros(count, bool)
    chosen[sorted(rows)] = True
    return chosen


def write_mask(path: Path, chosen: np.ndarray, output: Path) -> str:
    """Writes NAME-kept.npy, (rows,) bool, and says so."""
    buffer = io.BytesIO()
    np.save(buffer, chosen)
    target = output / f"{path.stem}-kept.npy"
    write_atomically(target, buffer.getvalue())
    return f"{target}: {chosen.sum():,} of {len(chosen):,} people"
