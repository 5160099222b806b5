"""Reading body files in SMPL's format, .npz or .pkl, into plain arrays, and what SMPL-X's files share with them.

What SMPL-X adds is in smplx_file.py, the pickles in restricted_pickle.py, the maths on the arrays in body_model.py.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adhmr.body.restricted_pickle import array_of, read_pickle
from adhmr.body.skeleton import NUM_BODY_JOINTS, PARENTS, SMPL_LEAF_VERTICES
from adhmr.errors import AdhmrError


class BodyFormat(NamedTuple):
    """By what the files of one family of bodies are known."""

    name: str
    parents: tuple[int, ...]
    num_vertices: int  # of the official mesh
    body_id: str  # of the official mesh


SMPL_FORMAT = BodyFormat("SMPL", PARENTS[:NUM_BODY_JOINTS], 6890, "smpl")

_FAMILIES = {24: "SMPL", 52: "SMPL-H", 55: "SMPL-X"}
_FLOAT_KEYS = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights")
_REQUIRED = (*_FLOAT_KEYS, "kintree_table", "f")
_METADATA = ("leaf_vertices", "body_id", "extra_vertex_names", "extra_vertex_ids")
_NUM_BETAS = 10


def _read_npz(path: Path, keys: Iterable[str]) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in keys if key in archive}
    except Exception as error:  # zip, header and pickled-object errors alike
        raise AdhmrError(f"{path}: not a readable .npz of plain arrays ({error}); get the file again") from error


def _read_pickled_dictionary(path: Path, keys: Iterable[str]) -> dict[str, Any]:
    content = read_pickle(path)
    if not isinstance(content, dict):
        raise AdhmrError(f"{path}: holds a {type(content).__name__}, but a body file is a dictionary of arrays")
    return {key: array_of(path, key, content[key]) for key in keys if key in content}


def read_content(path: Path, keys: Iterable[str]) -> dict[str, Any]:
    """Those of the keys that a body file holds. Of an .npz nothing else is read: official ones hold pickled objects."""
    if not path.is_file():
        raise AdhmrError(f"{path}: no such body file; give an SMPL-format .npz or .pkl, or none for the open body")
    if path.suffix not in (".npz", ".pkl"):
        raise AdhmrError(f"{path}: a body file ends in .npz or .pkl, not '{path.suffix}'")
    return (_read_npz if path.suffix == ".npz" else _read_pickled_dictionary)(path, keys)


def count_joints(path: str | Path) -> int:
    """How many joints the tree of a body file has: 24 are SMPL's, 55 SMPL-X's. Nothing else is checked.

    Raises:
        AdhmrError: no such file, not readable, or without a joint tree.
    """
    tree = np.asarray(read_content(Path(path), ("kintree_table",)).get("kintree_table"))
    if tree.ndim != 2:
        raise AdhmrError(f"{path}: missing kintree_table; a file in SMPL's format has {', '.join(_REQUIRED)}")
    return tree.shape[1]


def _check_shapes(path: Path, arrays: dict[str, np.ndarray], body_format: BodyFormat) -> None:
    name, num_vertices, num_joints = body_format.name, len(arrays["v_template"]), len(body_format.parents)
    tree = arrays["kintree_table"]
    family = _FAMILIES.get(tree.shape[-1])
    if tree.shape == (2, tree.shape[-1]) and family and family != name:
        raise AdhmrError(
            f"{path}: an {family} file ({tree.shape[1]} joints) where an {name} file is expected; give one"
        )
    expected = {
        "v_template": (num_vertices, 3),
        "posedirs": (num_vertices, 3, 9 * (num_joints - 1)),
        "J_regressor": (num_joints, num_vertices),
        "weights": (num_vertices, num_joints),
        "kintree_table": (2, num_joints),
    }
    for key, shape in expected.items():
        if arrays[key].shape != shape:
            raise AdhmrError(
                f"{path}: '{key}' has shape {arrays[key].shape}, expected {shape} for {name}'s {num_joints} joints; "
                f"give an {name} file"
            )
    shapedirs = arrays["shapedirs"]
    if shapedirs.ndim != 3 or shapedirs.shape[:2] != (num_vertices, 3) or shapedirs.shape[2] < _NUM_BETAS:
        raise AdhmrError(
            f"{path}: 'shapedirs' has shape {shapedirs.shape}, expected ({num_vertices}, 3, {_NUM_BETAS} or more)"
        )
    if tuple(tree[0]) != body_format.parents:
        raise AdhmrError(f"{path}: 'kintree_table' is not {name}'s joint tree; give an {name} file")
    faces = arrays["f"]
    if faces.ndim != 2 or faces.shape[1] != 3 or not len(faces) or faces.min() < 0 or faces.max() >= num_vertices:
        raise AdhmrError(f"{path}: 'f' is not a list of triangles over {num_vertices} vertices")


def _metadata(path: Path, content: dict[str, Any], num_vertices: int, body_format: BodyFormat) -> dict[str, Any]:
    is_official = "body_id" not in content and num_vertices == body_format.num_vertices
    names, ids = (np.asarray(content.get(f"extra_vertex_{what}", ())) for what in ("names", "ids"))
    if names.ndim != 1 or names.shape != ids.shape or (len(ids) and not 0 <= ids.min() <= ids.max() < num_vertices):
        raise AdhmrError(f"{path}: 'extra_vertex_names' and 'extra_vertex_ids' must name vertices below {num_vertices}")
    metadata: dict[str, Any] = {
        "body_id": body_format.body_id if is_official else str(content.get("body_id", f"unnamed-{num_vertices}")),
        "extra_vertices": {str(name): int(vertex) for name, vertex in zip(names, ids, strict=True)},
    }
    if "leaf_vertices" in content:
        leaves = np.asarray(content["leaf_vertices"]).astype(np.int64)
        if leaves.shape != (5,) or leaves.min() < 0 or leaves.max() >= num_vertices:
            raise AdhmrError(f"{path}: 'leaf_vertices' must be 5 vertex ids below {num_vertices}")
        metadata["leaf_vertices"] = leaves
    elif num_vertices != body_format.num_vertices:
        raise AdhmrError(
            f"{path}: has {num_vertices} vertices and no 'leaf_vertices', and {body_format.name}'s ids hold for "
            f"{body_format.num_vertices} vertices only: add the 5 vertex ids of head top, middle finger tips and big "
            "toes (left, right) to the file"
        )
    return metadata


def load_arrays(
    path: Path, body_format: BodyFormat, further: Sequence[str] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What every family's files hold, checked; and, as they are, those of the `further` keys that this file has.

    Returns:
        the arrays of `load_body_file` (without `leaf_vertices` where an official mesh's file names none; numbers of
        joints by the format), and a dictionary of the further entries.

    Raises:
        AdhmrError: see `load_body_file`.
    """
    name = body_format.name
    content = read_content(path, (*_REQUIRED, *_METADATA, *further))
    missing = [key for key in _REQUIRED if key not in content]
    if missing:
        raise AdhmrError(f"{path}: missing {', '.join(missing)}; a file in {name}'s format has {', '.join(_REQUIRED)}")
    arrays: dict[str, Any] = {}
    try:
        for key in _FLOAT_KEYS:
            arrays[key] = np.asarray(content[key], np.float32)
        for key in ("kintree_table", "f"):
            arrays[key] = np.asarray(content[key]).astype(np.int64)
        arrays["kintree_table"][..., :1] = -1  # files hold 2**32 - 1 as the root's parent
        arrays["kintree_table"][1:, :1] = 0
        _check_shapes(path, arrays, body_format)
        if np.asarray(content["weights"]).dtype == np.float16:  # half precision rows do not quite sum to one
            arrays["weights"] /= arrays["weights"].sum(1, keepdims=True)
        arrays |= _metadata(path, content, len(arrays["v_template"]), body_format)
    except (TypeError, ValueError, IndexError) as error:
        raise AdhmrError(f"{path}: not in {name}'s format: {error}") from error
    return arrays, {key: content[key] for key in further if key in content}


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
    arrays, further = load_arrays(Path(path), SMPL_FORMAT, ("coco17_regressor",))
    arrays.setdefault("leaf_vertices", np.array(SMPL_LEAF_VERTICES, np.int64))
    if "coco17_regressor" in further:
        arrays["coco17_regressor"] = np.asarray(further["coco17_regressor"], np.float32)  # (17, V)
    return arrays
