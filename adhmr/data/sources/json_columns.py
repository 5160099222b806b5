"""Columns of numbers gathered from the records of a JSON file, one after another, into arrays.

Reading the records is in json_elements.py; which keys a release has, in scorehypo_sets.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adhmr.errors import AdhmrError

BLOCK = 4096  # rows of an array that grows


@dataclass(frozen=True)
class Field:
    """Where a column lies in a record.

    keys: one inside the other. shapes: that its numbers may have, nested or flat; the first is the column's, others
    fill its first rows and leave out their last columns, what they lack is NaN. scale: to metres, where it is a length.
    """

    keys: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    scale: float = 1.0
    required: bool = True

    def read(self, record: Mapping[str, Any]) -> np.ndarray | None:
        """Float32 in one of the shapes, or None when there is none. Raises ValueError for numbers of no such shape."""
        value: Any = record
        for key in self.keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is None:
            return None
        try:
            numbers = np.asarray(value, np.float32)
        except (TypeError, ValueError):
            raise ValueError("rows of different lengths or no numbers") from None
        for shape in self.shapes:
            if numbers.size == int(np.prod(shape)):
                return numbers.reshape(shape) * np.float32(self.scale)
        raise ValueError(f"{numbers.size} numbers")

    @property
    def name(self) -> str:
        return ".".join(self.keys)


class Columns:
    """The columns of one list of records. `where` names the list in errors."""

    def __init__(self, path: Path, where: str, fields: Mapping[str, Field]) -> None:
        self._path, self._where, self._fields = path, where, fields
        self._blocks: dict[str, list[np.ndarray]] = {name: [] for name in fields}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, record: Any) -> None:
        """Raises AdhmrError naming the key that is missing or that has another shape."""
        if not isinstance(record, Mapping):
            raise AdhmrError(f"{self._place()} is {type(record).__name__}, expected an object with named values")
        row = self._count % BLOCK
        for name, field in self._fields.items():
            if row == 0:
                self._blocks[name].append(np.full((BLOCK, *field.shapes[0]), np.nan, np.float32))
            try:
                numbers = field.read(record)
            except ValueError as error:
                raise AdhmrError(f"{self._place()}: '{field.name}' has {error}; {_expected(field)}") from None
            if numbers is not None:
                column = self._blocks[name][-1][row]  # a view
                part = numbers[..., : column.shape[-1]]
                column[: len(part)] = part
            elif field.required:
                raise AdhmrError(f"{self._place()}: there is no '{field.name}'; {_expected(field)}")
        self._count += 1

    def arrays(self) -> dict[str, np.ndarray]:
        """(N, ...) float32 of each column, which are then given up here."""
        result = {}
        for name, field in self._fields.items():
            blocks = self._blocks.pop(name)
            whole = np.concatenate(blocks) if blocks else np.zeros((0, *field.shapes[0]), np.float32)
            result[name] = whole[: self._count]
        return result

    def _place(self) -> str:
        return f"{self._path}: number {self._count} of {self._where}"


def _expected(field: Field) -> str:
    shapes = " or ".join(" x ".join(str(length) for length in shape) for shape in field.shapes)
    return f"expected {shapes} numbers: is this the file that docs/datasets.md names?"
