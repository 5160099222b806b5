"""Made-up bodies in the official file formats, with the keys and types of the official files and random numbers."""

from typing import Any

import numpy as np

SMPL_PARENTS = [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21]
SMPLX_PARENTS = [*SMPL_PARENTS[:22], 15, 15, 15]
SMPLX_PARENTS += [20, 25, 26, 20, 28, 29, 20, 31, 32, 20, 34, 35, 20, 37, 38]
SMPLX_PARENTS += [21, 40, 41, 21, 43, 44, 21, 46, 47, 21, 49, 50, 21, 52, 53]


def with_fields(made: type, **fields: Any) -> Any:
    """An object that pickles with these fields, as chumpy's do."""
    node = made()
    node.__dict__.update(fields)
    return node


def _tree(parents: list[int]) -> np.ndarray:
    """(2, J) uint32: parents, the root's being 2**32 - 1, and the joints' own numbers."""
    return np.array([parents, range(len(parents))]).astype(np.uint32)


def _weights(rng: np.random.Generator, num_vertices: int, num_joints: int) -> np.ndarray:
    """Four joints a vertex."""
    weights = np.zeros((num_vertices, num_joints))
    joints = rng.integers(0, num_joints, (num_vertices, 4))
    np.add.at(weights, (np.arange(num_vertices)[:, None], joints), rng.random((num_vertices, 4)) + 0.1)
    return weights / weights.sum(1, keepdims=True)


def _regressor(rng: np.random.Generator, num_joints: int, num_vertices: int) -> np.ndarray:
    """Eight vertices a joint."""
    regressor = np.zeros((num_joints, num_vertices))
    regressor[np.arange(num_joints)[:, None], rng.integers(0, num_vertices, (num_joints, 8))] = 0.125
    return regressor


def _posedirs(rng: np.random.Generator, num_vertices: int, num_joints: int, dtype: type) -> np.ndarray:
    """Some vertices move with the pose; the rest are zeros, so that a body of the official size is cheap to make."""
    posedirs = np.zeros((num_vertices, 3, 9 * (num_joints - 1)), dtype)
    some = rng.integers(0, num_vertices, 200)
    posedirs[some] = 0.01 * rng.normal(size=(200, *posedirs.shape[1:]))
    return posedirs


def _shapedirs(rng: np.random.Generator, num_vertices: int, columns: int, *starts: int) -> np.ndarray:
    """Zeros but for the eleven columns from each start on."""
    shapedirs = np.zeros((num_vertices, 3, columns))
    for start in starts:
        part = shapedirs[..., start : start + 11]
        part[:] = 0.1 * rng.normal(size=part.shape)
    return shapedirs


def made_smpl(num_vertices: int = 40, components: int = 10) -> dict[str, Any]:
    """A body in SMPL's format, all plain arrays; its mesh names its own leaf vertices unless it has SMPL's size."""
    rng = np.random.default_rng(0)
    own_ids = {} if num_vertices == 6890 else {"leaf_vertices": np.arange(5), "body_id": "small"}
    return {
        "v_template": rng.normal(size=(num_vertices, 3)),
        "shapedirs": _shapedirs(rng, num_vertices, components, 0),
        "posedirs": _posedirs(rng, num_vertices, 24, np.float64),
        "J_regressor": _regressor(rng, 24, num_vertices),
        "weights": _weights(rng, num_vertices, 24),
        "kintree_table": _tree(SMPL_PARENTS),
        "f": rng.integers(0, num_vertices, (60, 3)).astype(np.uint32),
        **own_ids,
    }


def made_smplx(num_vertices: int = 60, columns: int = 20) -> dict[str, Any]:
    """A body in SMPL-X's format with every kind of entry of the official .npz, and our own vertex ids besides."""
    rng = np.random.default_rng(1)
    return {
        "v_template": rng.normal(size=(num_vertices, 3)),
        "shapedirs": _shapedirs(rng, num_vertices, columns, 0, 10, 300),
        "posedirs": _posedirs(rng, num_vertices, 55, np.float32),
        "J_regressor": _regressor(rng, 55, num_vertices),
        "weights": _weights(rng, num_vertices, 55),
        "kintree_table": _tree(SMPLX_PARENTS),
        "f": rng.integers(0, num_vertices, (80, 3)).astype(np.uint32),
        "hands_meanl": 0.2 * rng.normal(size=45),
        "hands_meanr": 0.2 * rng.normal(size=45),
        "hands_componentsl": rng.normal(size=(45, 45)),
        "hands_componentsr": rng.normal(size=(45, 45)),
        "lmk_faces_idx": rng.integers(0, 80, 51),
        "lmk_bary_coords": rng.random((51, 3)),
        "dynamic_lmk_faces_idx": rng.integers(0, 80, (79, 17)),
        "dynamic_lmk_bary_coords": rng.random((79, 17, 3)),
        "part2num": np.array({"Global": 0, "L_Thigh": 1}, dtype=object),
        "joint2num": np.array({"Pelvis": 0, "L_Hip": 1}, dtype=object),
        "allow_pickle": np.array(True),
        "leaf_vertices": np.arange(5, 10),
        "extra_vertex_names": np.array(["lthumb", "rthumb"]),
        "extra_vertex_ids": np.array([3, 4]),
        "body_id": "small-x",
    }
