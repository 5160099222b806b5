"""Reading body files in SMPL's format, .npz or .pkl, into plain arrays.

The official pickles hold chumpy and scipy objects. They are read by an unpickler that knows a short list of names,
so that neither chumpy nor any code a file may carry is needed or run. The maths on the arrays is in body_model.py.
"""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from adhmr.body.skeleton import NUM_BODY_JOINTS, PARENTS, SMPL_LEAF_VERTICES
from adhmr.errors import AdhmrError

SMPL_BODY_ID = "smpl"
SMPL_NUM_VERTICES = 6890

_REQUIRED = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table", "f")
_NUM_BETAS = 10


class _ChumpyNode:
    """Stands in for every chumpy class: keeps the pickled fields and can say what array they mean."""

    def __init__(self, *_: Any) -> None:
        self.fields: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.fields = dict(state) if isinstance(state, dict) else {"x": state}

    def to_array(self) -> np.ndarray:
        fields = self.fields
        if "x" in fields:  # chumpy.ch.Ch: an array
            return np.asarray(_to_array(fields["x"]))
        if "a" in fields and "idxs" in fields:  # chumpy.reordering.Select: some entries of another node
            chosen = np.asarray(_to_array(fields["a"])).ravel()[np.asarray(_to_array(fields["idxs"]))]
            return chosen.reshape(fields["preferred_shape"]) if "preferred_shape" in fields else chosen
        raise AdhmrError(f"unknown chumpy object with the fields {sorted(fields)}")


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
            raise AdhmrError(f"unknown sparse matrix with the fields {sorted(fields)}")
        return self.layout(parts, shape=tuple(int(length) for length in shape)).toarray()


class _ColumnMatrix(_SparseMatrix):
    layout = staticmethod(scipy.sparse.csc_matrix)


class _RowMatrix(_SparseMatrix):
    layout = staticmethod(scipy.sparse.csr_matrix)


def _encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    """What Python 2 byte strings call when they are written by Python 3; no other codec is needed."""
    if encoding.lower().replace("-", "").replace("_", "") not in ("latin1", "iso88591"):
        raise pickle.UnpicklingError(f"codec {encoding}")
    return text.encode("latin1")


_PLAIN_TYPES = {"object", "dict", "list", "tuple", "set", "slice", "int", "float", "bool", "str", "bytes"}
_SPARSE = {"csc_matrix": _ColumnMatrix, "csc_array": _ColumnMatrix, "csr_matrix": _RowMatrix, "csr_array": _RowMatrix}
_NUMPY_NAMES = {
    "numpy": {"ndarray", "dtype"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy.core.numeric": {"_frombuffer"},
    "numpy._core.numeric": {"_frombuffer"},
}
_OTHER_NAMES = {
    "copy_reg": {"_reconstructor"},
    "copyreg": {"_reconstructor"},
    "collections": {"OrderedDict"},
    "builtins": set(["object", "dict", "list", "tuple", "set", "slice", "int", "float", "bool", "str", "bytes"]),
    "__builtin__": set(
        ["object", "dict", "list", "tuple", "set", "slice", "int", "long", "float", "bool", "str", "unicode"]
    ),
}


class _BodyUnpickler(pickle.Unpickler):
    """An allow-list: a body file needs numpy arrays, sparse matrices and chumpy nodes, and gets nothing else."""

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
        raise pickle.UnpicklingError(f"{module}.{name}")


def _to_array(value: Any) -> Any:
    return value.to_array() if isinstance(value, _ChumpyNode | _SparseMatrix) else value


def _read_pickle(path: Path) -> dict[str, Any]:
    try:
        content = _BodyUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise AdhmrError(
            f"{path}: refused to load '{error}' from this pickle: a body file holds numpy, scipy.sparse and chumpy "
            "objects only; get the file from its official site again"
        ) from error
    except Exception as error:  # a broken pickle may raise nearly anything
        raise AdhmrError(f"{path}: not a readable pickle ({error}); get the file again") from error
    if not isinstance(content, dict):
        raise AdhmrError(f"{path}: holds a {type(content).__name__}, but a body file is a dictionary of arrays")
    try:
        return {str(key): _to_array(value) for key, value in content.items()}
    except AdhmrError as error:
        raise AdhmrError(f"{path}: {error}; convert the file to .npz with plain arrays") from error


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except Exception as error:  # zip, header and pickled-object errors alike
        raise AdhmrError(f"{path}: not a readable .npz of plain arrays ({error}); get the file again") from error


def _check_shapes(path: Path, arrays: dict[str, np.ndarray]) -> None:
    num_vertices = len(arrays["v_template"])
    expected = {
        "v_template": (num_vertices, 3),
        "posedirs": (num_vertices, 3, 9 * (NUM_BODY_JOINTS - 1)),
        "J_regressor": (NUM_BODY_JOINTS, num_vertices),
        "weights": (num_vertices, NUM_BODY_JOINTS),
        "kintree_table": (2, NUM_BODY_JOINTS),
    }
    for key, shape in expected.items():
        if arrays[key].shape != shape:
            raise AdhmrError(
                f"{path}: '{key}' has shape {arrays[key].shape}, expected {shape} for SMPL's {NUM_BODY_JOINTS} joints; "
                "give an SMPL file (SMPL-H, SMPL-X and other bodies are not read)"
            )
    shapedirs = arrays["shapedirs"]
    if shapedirs.ndim != 3 or shapedirs.shape[:2] != (num_vertices, 3) or shapedirs.shape[2] < _NUM_BETAS:
        raise AdhmrError(
            f"{path}: 'shapedirs' has shape {shapedirs.shape}, expected ({num_vertices}, 3, {_NUM_BETAS} or more)"
        )
    if tuple(arrays["kintree_table"][0, 1:]) != PARENTS[1:NUM_BODY_JOINTS]:
        raise AdhmrError(f"{path}: 'kintree_table' is not SMPL's joint tree; give an SMPL file")
    faces = arrays["f"]
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.min() < 0 or faces.max() >= num_vertices:
        raise AdhmrError(f"{path}: 'f' is not a list of triangles over {num_vertices} vertices")


def _add_metadata(path: Path, arrays: dict[str, Any], content: dict[str, Any]) -> None:
    num_vertices = len(arrays["v_template"])
    if "leaf_vertices" in content:
        arrays["leaf_vertices"] = np.asarray(content["leaf_vertices"]).astype(np.int64)
    elif num_vertices == SMPL_NUM_VERTICES:
        arrays["leaf_vertices"] = np.array(SMPL_LEAF_VERTICES, np.int64)
    else:
        raise AdhmrError(
            f"{path}: has {num_vertices} vertices and no 'leaf_vertices', and SMPL's ids hold for {SMPL_NUM_VERTICES} "
            "vertices only: add the 5 vertex ids of head top, middle finger tips and big toes (left, right) to the file"
        )
    leaves = arrays["leaf_vertices"]
    if leaves.shape != (5,) or leaves.min() < 0 or leaves.max() >= num_vertices:
        raise AdhmrError(f"{path}: 'leaf_vertices' must be 5 vertex ids below {num_vertices}")

    is_smpl = "body_id" not in content and num_vertices == SMPL_NUM_VERTICES
    arrays["body_id"] = SMPL_BODY_ID if is_smpl else str(content.get("body_id", f"unnamed-{num_vertices}"))
    arrays["extra_vertices"] = {
        str(name): int(vertex)
        for name, vertex in zip(content.get("extra_vertex_names", ()), content.get("extra_vertex_ids", ()), strict=True)
    }
    if "coco17_regressor" in content:
        arrays["coco17_regressor"] = np.asarray(content["coco17_regressor"], np.float32)  # (17, V)


def load_body_file(path: str | Path) -> dict[str, Any]:
    """Read a body file in SMPL's format.

    Args:
        path: an .npz of plain arrays, or a .pkl as the official site gives it.

    Returns:
        float32 arrays `v_template (V, 3)`, `shapedirs (V, 3, >=10)`, `posedirs (V, 3, 207)`, `J_regressor (24, V)`,
        `weights (V, 24)` (metres), int64 `kintree_table (2, 24)` with -1 for the root's parent, `f (F, 3)`,
        `leaf_vertices (5,)`; `body_id` (str: the topology that regressors must name); `extra_vertices` (name -> vertex
        id, empty when the file has none) and, when the file has it, `coco17_regressor (17, V)`.

    Raises:
        AdhmrError: no such file, not SMPL's format, or a pickle with a class that no body file needs.
    """
    path = Path(path)
    if not path.is_file():
        raise AdhmrError(f"{path}: no such body file; give an SMPL-format .npz or .pkl, or none for the open body")
    if path.suffix not in (".npz", ".pkl"):
        raise AdhmrError(f"{path}: a body file ends in .npz or .pkl, not '{path.suffix}'")
    content = _read_npz(path) if path.suffix == ".npz" else _read_pickle(path)
    missing = [key for key in _REQUIRED if key not in content]
    if missing:
        raise AdhmrError(f"{path}: missing {', '.join(missing)}; a file in SMPL's format has {', '.join(_REQUIRED)}")

    arrays: dict[str, Any] = {}
    try:
        for key in ("v_template", "shapedirs", "posedirs", "J_regressor", "weights"):
            arrays[key] = np.asarray(content[key], np.float32)
        for key in ("kintree_table", "f"):
            arrays[key] = np.asarray(content[key]).astype(np.int64)
        arrays["kintree_table"][..., :1] = -1  # files hold 2**32 - 1 as the root's parent
        arrays["kintree_table"][1:, :1] = 0
    except (TypeError, ValueError, IndexError) as error:
        raise AdhmrError(f"{path}: not in SMPL's format: {error}") from error
    _check_shapes(path, arrays)
    if np.asarray(content["weights"]).dtype == np.float16:  # half precision rows do not quite sum to one
        arrays["weights"] /= arrays["weights"].sum(1, keepdims=True)
    _add_metadata(path, arrays, content)
    return arrays
