"""Reading .npz archives that hold pickled objects beside arrays, without running what they may carry."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adhmr.body.restricted_pickle import read_pickled
from adhmr.errors import AdhmrError


class NumpyArchive(Mapping[str, Any]):
    """The members of an .npz by name, each read when it is asked for; members of objects by the restricted unpickler.

    Raises AdhmrError for what is no .npz, and on access for a member that cannot be read or is refused.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except FileNotFoundError:
            raise AdhmrError(f"{path}: no such file; docs/datasets.md says where to get it") from None
        except (OSError, zipfile.BadZipFile) as error:
            raise AdhmrError(f"{path}: not a readable .npz ({error}); get the file again") from error
        self._names = {name.removesuffix(".npy"): name for name in names}

    def __getitem__(self, key: str) -> Any:
        name = self._names[key]
        try:
            with zipfile.ZipFile(self.path) as archive:
                content = io.BytesIO(archive.read(name))
            version = np.lib.format.read_magic(content)
            read_header = np.lib.format.read_array_header_1_0
            if version != (1, 0):
                read_header = np.lib.format.read_array_header_2_0
            shape, _, dtype = read_header(content)
            if not dtype.hasobject:
                content.seek(0)
                return np.load(content, allow_pickle=False)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise AdhmrError(f"{self.path}: its member '{key}' cannot be read ({error}); get the file again") from error
        stored = read_pickled(content, self.path)
        return stored.item() if shape == () else np.asarray(stored)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
