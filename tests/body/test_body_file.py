"""Body files: official-looking pickles, hostile ones, and files that are something else."""

import os
import pickle
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

from adhmr.body.body_file import load_body_file
from adhmr.body.body_model import open_body_path
from adhmr.errors import AdhmrError


@pytest.fixture
def chumpy(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.SimpleNamespace]:
    """Classes that pickle as chumpy's do: by their module, name and fields."""
    classes = {}
    for module_name, class_name in (("chumpy.ch", "Ch"), ("chumpy.reordering", "Select"), ("chumpy.ch", "Unknown")):
        module = sys.modules.get(module_name) or types.ModuleType(module_name)
        made = type(class_name, (), {"__module__": module_name})
        setattr(module, class_name, made)
        monkeypatch.setitem(sys.modules, module_name, module)
        classes[class_name] = made
    monkeypatch.setitem(sys.modules, "chumpy", types.ModuleType("chumpy"))
    yield types.SimpleNamespace(**classes)


def _with_fields(made: type, **fields: Any) -> Any:
    node = made()
    node.__dict__.update(fields)
    return node


def _small_body(num_vertices: int = 40) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    weights = rng.random((num_vertices, 24))
    with np.load(open_body_path()) as open_body:
        tree = open_body["kintree_table"]
    return {
        "v_template": rng.normal(size=(num_vertices, 3)),
        "shapedirs": rng.normal(size=(num_vertices, 3, 10)),
        "posedirs": rng.normal(size=(num_vertices, 3, 207)),
        "J_regressor": np.where(rng.random((24, num_vertices)) < 0.1, 0.5, 0.0),
        "weights": weights / weights.sum(1, keepdims=True),
        "kintree_table": tree.astype(np.uint32),
        "f": rng.integers(0, num_vertices, (60, 3)).astype(np.uint32),
        "leaf_vertices": np.arange(5),
        "body_id": "small",
    }


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickle_with_chumpy_and_scipy_objects(tmp_path: Path, chumpy: types.SimpleNamespace, protocol: int) -> None:
    body = _small_body()
    wide = np.concatenate([body["shapedirs"], np.ones((40, 3, 3))], axis=2)
    indices = np.arange(wide.size).reshape(wide.shape)[..., :10].ravel()
    content = {
        **body,
        "v_template": _with_fields(chumpy.Ch, x=body["v_template"]),
        "shapedirs": _with_fields(
            chumpy.Select, a=_with_fields(chumpy.Ch, x=wide), idxs=indices, preferred_shape=(40, 3, 10)
        ),
        "J_regressor": scipy.sparse.csc_matrix(body["J_regressor"]),
        "bs_type": "lrotmin",
    }
    path = tmp_path / "SMPL_NEUTRAL.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    for name in ("chumpy", "chumpy.ch", "chumpy.reordering"):
        del sys.modules[name]  # a user has no chumpy

    arrays = load_body_file(path)
    for key in ("v_template", "shapedirs", "posedirs", "J_regressor", "weights"):
        assert arrays[key].dtype == np.float32
        np.testing.assert_allclose(arrays[key], body[key], rtol=1e-6)
    np.testing.assert_array_equal(arrays["f"], body["f"])
    assert arrays["kintree_table"][0, 0] == -1


def test_old_scipy_module_path(tmp_path: Path) -> None:
    body = _small_body()
    matrix = scipy.sparse.csc_matrix(body["J_regressor"])
    content = pickle.dumps({**body, "J_regressor": matrix}, protocol=2)
    assert b"cscipy.sparse._csc\n" in content
    path = tmp_path / "old.pkl"
    path.write_bytes(content.replace(b"cscipy.sparse._csc\n", b"cscipy.sparse.csc\n"))
    np.testing.assert_allclose(load_body_file(path)["J_regressor"], body["J_regressor"], rtol=1e-6)


class _RunsCommand:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


def test_hostile_pickle_is_refused_by_name_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    path = tmp_path / "hostile.pkl"
    path.write_bytes(pickle.dumps({**_small_body(), "bs_type": _RunsCommand(f"touch {mark}")}))
    with pytest.raises(AdhmrError, match=r"hostile\.pkl: refused .*(posix|nt)\.system"):
        load_body_file(path)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["eval", "getattr", "exec", "__import__"])
def test_dangerous_builtins_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "hostile.pkl"
    path.write_bytes(f"cbuiltins\n{name}\n(S'1'\ntR.".encode())
    with pytest.raises(AdhmrError, match=rf"builtins\.{name}"):
        load_body_file(path)


def test_unknown_chumpy_object_names_its_fields(tmp_path: Path, chumpy: types.SimpleNamespace) -> None:
    path = tmp_path / "odd.pkl"
    path.write_bytes(pickle.dumps({**_small_body(), "v_template": _with_fields(chumpy.Unknown, left=1, right=2)}))
    with pytest.raises(AdhmrError, match=r"\['left', 'right'\].*npz"):
        load_body_file(path)


def test_missing_file() -> None:
    with pytest.raises(AdhmrError, match="no such body file"):
        load_body_file("nowhere/SMPL_NEUTRAL.pkl")


def test_missing_keys_are_listed(tmp_path: Path) -> None:
    body = _small_body()
    del body["posedirs"], body["weights"]
    np.savez(tmp_path / "part.npz", **body)
    with pytest.raises(AdhmrError, match="missing posedirs, weights"):
        load_body_file(tmp_path / "part.npz")


@pytest.mark.parametrize("name", ["junk.npz", "junk.pkl"])
def test_junk_bytes(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04this is no body")
    with pytest.raises(AdhmrError, match=name):
        load_body_file(tmp_path / name)


def test_pickle_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(AdhmrError, match="holds a list"):
        load_body_file(tmp_path / "list.pkl")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("weights", np.ones((40, 55)), "expected .40, 24."),
        ("shapedirs", np.ones((40, 3, 4)), "10 or more"),
        ("kintree_table", np.zeros((2, 24)), "joint tree"),
        ("f", np.full((3, 3), 40), "triangles over 40"),
        ("f", np.array([["a", "b", "c"]]), "not in SMPL's format"),
        ("leaf_vertices", np.array([1, 2, 3, 4, 40]), "leaf_vertices"),
        ("kintree_table", np.float64(1.0), "kintree_table|not in SMPL's format"),
    ],
)
def test_wrong_contents(tmp_path: Path, key: str, value: np.ndarray, message: str) -> None:
    np.savez(tmp_path / "wrong.npz", **{**_small_body(), key: value})
    with pytest.raises(AdhmrError, match=message):
        load_body_file(tmp_path / "wrong.npz")


def test_unknown_mesh_needs_leaf_vertices(tmp_path: Path) -> None:
    body = _small_body()
    del body["leaf_vertices"]
    np.savez(tmp_path / "body.npz", **body)
    with pytest.raises(AdhmrError, match="no 'leaf_vertices'"):
        load_body_file(tmp_path / "body.npz")


def test_open_body_carries_its_metadata() -> None:
    arrays = load_body_file(open_body_path())
    assert len(arrays["extra_vertices"]) == 21
    assert len(arrays["v_template"]) != 6890  # regressors made for SMPL must fail on it
    np.testing.assert_allclose(arrays["weights"].sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(arrays["J_regressor"].sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(arrays["coco17_regressor"].sum(1), 1, atol=1e-2)
