"""The vertices of a PLY file, text or binary. Faces and colours are passed over."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from adhmr.errors import AdhmrError

_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"},
}
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">"}


def read_ply_vertices(path: Path) -> np.ndarray:
    """(V, 3) float32. Raises FileNotFoundError, and AdhmrError for what is no PLY file whose vertices come first."""
    data = path.read_bytes()
    head, mark, content = data.partition(b"end_header")
    if not data.startswith(b"ply") or not mark:
        raise AdhmrError(f"{path}: not a PLY file; get it again")
    content = content[content.find(b"\n") + 1 :]
    lines = [line.split() for line in head.decode("latin1").splitlines()]
    try:
        form = next(line[1] for line in lines if line[0] == "format")
        elements = [n for n, line in enumerate(lines) if line and line[0] == "element"]
        first, last = elements[0], elements[1] if len(elements) > 1 else len(lines)
        name, count = lines[first][1], int(lines[first][2])
        columns = [(line[2], _TYPES[line[1]]) for line in lines[first + 1 : last] if line and line[0] == "property"]
        if name != "vertex":
            raise ValueError(f"its first element is {name}")
        if form == "ascii":
            rows = np.array(content.split()[: count * len(columns)], np.float32).reshape(count, len(columns))
            at = [column for column, _ in columns]
            return rows[:, [at.index(axis) for axis in "xyz"]]
        vertices = np.frombuffer(content, [(column, _ORDERS[form] + kind) for column, kind in columns], count)
        return np.stack([vertices[axis] for axis in "xyz"], 1).astype(np.float32)
    except (StopIteration, KeyError, IndexError, ValueError) as error:
        raise AdhmrError(f"{path}: its vertices cannot be read ({error}); get the file again") from error
