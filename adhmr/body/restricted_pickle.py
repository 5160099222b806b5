"""Reading the pickles of body files and annotations without running what they may carry.

The official pickles hold chumpy and scipy objects. They are read by an unpickler that knows a short list of names,
so that neither chumpy nor any code a file may carry is needed or run. What the arrays mean is in body_file.py, and for
annotations in adhmr.data.sources.
"""

import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import scipy.sparse

from adhmr.errors import AdhmrError


class _Refused(Exception):
    """A name or codec that is not on the list."""


class _ChumpyNode:
    """Stands in for every chumpy class: keeps the pickled fields and can say what array they mean."""

    def __init__(self, *_: Any) -> None:
        self.fields: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.fields = dict(state) if isinstance(state, dict) else {"x": state}

    def to_array(self) -> np.ndarray:
        fields = self.fields
        if "x" in fields:  # chumpy.ch.Ch: an array
            return np.asarray(_plain(fields["x"]))
        if "a" in fields and "idxs" in fields:  # chumpy.reordering.Select: some entries of another node
            chosen = np.asarray(_plain(fields["a"])).ravel()[np.asarray(_plain(fields["idxs"]))]
            return chosen.reshape(fields["preferred_shape"]) if "preferred_shape" in fields else chosen
        raise ValueError(f"unknown chumpy object with the fields {sorted(fields)}")


class _SparseMatrix:
    """Stands in for scipy's compressed matrices, whose module paths and fields changed over scipy's versions."""

    layout: Any

    def __init__(self, *_: Any) -> None:
        self.fields: dict[str, Any] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.fields = dict(state)

    def to_array(self) -> np.ndarray:
        fields = self.fields
        shape = fields.get("_shape", fields.get("shape"))
        parts = tuple(fields.get(name) for name in ("data", "indices", "indptr"))
        if shape is None or any(part is None for part in parts):
            raise ValueError(f"unknown sparse matrix with the fields {sorted(fields)}")
        return self.layout(parts, shape=tuple(int(length) for length in shape)).toarray()


class _ColumnMatrix(_SparseMatrix):
    layout = staticmethod(scipy.sparse.csc_matrix)


class _RowMatrix(_SparseMatrix):
    layout = staticmethod(scipy.sparse.csr_matrix)


def _encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    """What Python 2 byte strings call when they are written by Python 3; no other codec is needed."""
    if encoding.lower().replace("-", "").replace("_", "") not in ("latin1", "iso88591"):
        raise _Refused(f"codec {encoding}")
    return text.encode("latin1")


_SPARSE = {"csc_matrix": _ColumnMatrix, "csc_array": _ColumnMatrix, "csr_matrix": _RowMatrix, "csr_array": _RowMatrix}
_NUMPY_NAMES = {
    "numpy": {"ndarray", "dtype"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy.core.numeric": {"_frombuffer"},
    "numpy._core.numeric": {"_frombuffer"},
}
_PLAIN_TYPES = {"object", "dict", "list", "tuple", "set", "slice", "int", "float", "bool", "str"}
_OTHER_NAMES = {
    "copy_reg": {"_reconstructor"},
    "copyreg": {"_reconstructor"},
    "collections": {"OrderedDict"},
    "builtins": _PLAIN_TYPES | {"bytes"},
    "__builtin__": _PLAIN_TYPES | {"long", "unicode"},
}


class _RestrictedUnpickler(pickle.Unpickler):
    """An allow-list: such a file needs numpy arrays, sparse matrices and chumpy nodes, and gets nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "chumpy" or module.startswith("chumpy."):
            return _ChumpyNode
        if module.startswith("scipy.sparse") and name in _SPARSE:
            return _SPARSE[name]
        if (module, name) == ("_codecs", "encode"):
            return _encode_latin1
        if name in _NUMPY_NAMES.get(module, ()):
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        if name in _OTHER_NAMES.get(module, ()):
            return super().find_class(module, name)
        raise _Refused(f"{module}.{name}")


def _plain(value: Any) -> Any:
    return value.to_array() if isinstance(value, _ChumpyNode | _SparseMatrix) else value


def read_pickle(path: Path) -> Any:
    """What a pickle holds; chumpy and sparse objects are still nodes, for `array_of` to turn into arrays.

    Raises:
        AdhmrError: a class that no such file needs, or no readable pickle.
    """
    with path.open("rb") as file:
        return read_pickled(file, path)


def read_pickled(file: BinaryIO, path: Path) -> Any:
    """The same of an open file, at whose position the pickle begins; `path` names it in errors."""
    try:
        return _RestrictedUnpickler(file, encoding="latin1").load()
    except _Refused as error:
        raise AdhmrError(
            f"{path}: refused to load '{error}' from this pickle: it should hold numpy, scipy.sparse and chumpy "
            "objects only; get the file from its official site again"
        ) from error
    except Exception as error:  # a broken pickle may raise nearly anything
        raise AdhmrError(f"{path}: not a readable pickle ({error}); get the file again") from error


def array_of(path: Path, key: str, value: Any) -> Any:
    """One value of `read_pickle`, its chumpy or sparse object turned into an array; `path` and `key` name it in errors.

    Raises:
        AdhmrError: an object whose fields do not describe an array.
    """
    try:
        return _plain(value)
    except Exception as error:  # the fields come from the file: indices, shapes and nesting may be anything
        raise AdhmrError(f"{path}: '{key}': {error}; convert the file to .npz with plain arrays") from error
