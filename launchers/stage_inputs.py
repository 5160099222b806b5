"""The files and folders that a stage's configuration names: all of them, and what is in those that no stage made.

A data set's content is known by its index (it has a hash of each shard); of URLs and other folders the name counts.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from adhmr.config.data import ShardFolder

WRITTEN = ("output", "page")  # what a stage makes, not reads
WHOLE = 64 << 20  # bytes; of larger files samples are hashed
SAMPLES = 64  # of 1 MB each, evenly spaced
_FOLDER = get_args(ShardFolder)[1]


def paths_read(config: BaseModel) -> Iterator[tuple[str, str]]:
    """(dotted key, path or URL) of all that a configuration names and its stage does not write."""
    for key, path in _paths("", config, False):
        if key not in WRITTEN:
            yield key, path


def _paths(key: str, value: Any, folder: bool) -> Iterator[tuple[str, str]]:
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            yield from _paths(f"{key}.{name}" if key else name, getattr(value, name), _is_shard_folder(field))
    elif isinstance(value, list | tuple | dict):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _paths(f"{key}.{name}", item, folder)
    elif isinstance(value, Path) or (folder and isinstance(value, str)):
        yield key, str(value)


def _is_shard_folder(field: FieldInfo) -> bool:
    return _FOLDER in field.metadata or any(
        _FOLDER in getattr(of, "__metadata__", ()) for of in get_args(field.annotation)
    )


def content(path: str) -> str | None:
    """A short hash of what is in a file or data set; None where only the name counts, or where nothing is."""
    if "://" in path:
        return None
    file = Path(path) / "index.json" if os.path.isdir(path) else Path(path)
    if not file.is_file():
        return None
    state = file.stat()
    hashed = hashlib.sha256(str(state.st_size).encode())
    with open(file, "rb") as stream:
        if state.st_size <= WHOLE:
            hashed.update(stream.read())
        else:
            for number in range(SAMPLES):
                stream.seek((state.st_size - (1 << 20)) * number // (SAMPLES - 1))
                hashed.update(stream.read(1 << 20))
    return hashed.hexdigest()[:12]
