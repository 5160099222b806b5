"""SMPL-X files: both official containers, the split of the components, hostile and wrong files."""

import os
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from smplx.vertex_ids import vertex_ids

from adhmr.body.body_file import count_joints
from adhmr.body.smplx_file import load_smplx_file
from adhmr.errors import AdhmrError
from tests.body.made_files import SMPLX_PARENTS, made_smpl, made_smplx, with_fields


class _LeavesMark:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def test_npz_with_pickled_objects_is_read_without_them(tmp_path: Path) -> None:
    made = made_smplx()
    made["joint2num"] = np.array(_LeavesMark(tmp_path / "mark"), dtype=object)
    np.savez(tmp_path / "SMPLX_NEUTRAL.npz", **made)
    arrays = load_smplx_file(tmp_path / "SMPLX_NEUTRAL.npz")
    assert not (tmp_path / "mark").exists()
    for key in ("v_template", "posedirs", "J_regressor", "weights"):
        assert arrays[key].dtype == np.float32
        np.testing.assert_allclose(arrays[key], made[key], rtol=1e-6)
    assert arrays["kintree_table"][0].tolist() == SMPLX_PARENTS
    np.testing.assert_allclose(arrays["mean_hands"], [made["hands_meanl"], made["hands_meanr"]], rtol=1e-6)
    assert count_joints(tmp_path / "SMPLX_NEUTRAL.npz") == 55


@pytest.mark.parametrize(("columns", "expression"), [(20, 10), (400, 300)])
def test_shape_and_expression_are_the_columns_that_smplx_takes(tmp_path: Path, columns: int, expression: int) -> None:
    made = made_smplx(columns=columns)
    np.savez(tmp_path / "x.npz", **made)
    arrays = load_smplx_file(tmp_path / "x.npz")
    np.testing.assert_allclose(arrays["shapedirs"], made["shapedirs"][..., :10], rtol=1e-6)
    np.testing.assert_allclose(
        arrays["expression_dirs"], made["shapedirs"][..., expression : expression + 10], rtol=1e-6
    )
    assert arrays["file_components"] == (expression, columns - expression)


def test_pickle_with_chumpy_and_sparse_objects_equals_npz(tmp_path: Path, chumpy: types.SimpleNamespace) -> None:
    made = made_smplx()
    np.savez(tmp_path / "x.npz", **made)
    content = {
        **made,
        "shapedirs": with_fields(chumpy.Ch, x=made["shapedirs"]),
        "J_regressor": scipy.sparse.csc_matrix(made["J_regressor"]),
        "joint2num": {"Pelvis": 0},
    }
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol=2))
    for module in ("chumpy", "chumpy.ch", "chumpy.reordering"):
        del sys.modules[module]
    from_pickle, from_npz = load_smplx_file(tmp_path / "x.pkl"), load_smplx_file(tmp_path / "x.npz")
    assert from_pickle.keys() == from_npz.keys()
    for key, value in from_npz.items():
        np.testing.assert_array_equal(from_pickle[key], value)


def test_official_mesh_knows_its_vertices(official_smplx: Path) -> None:
    arrays = load_smplx_file(official_smplx)
    highest = int(arrays["v_template"][:, 1].argmax())
    assert arrays["leaf_vertices"].tolist() == [highest, 5058, 7794, 5770, 8463]
    assert arrays["body_id"] == "smplx" and arrays["extra_vertices"] == vertex_ids["smplx"]


def test_hostile_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    content = {**made_smplx(), "joint2num": _LeavesMark(tmp_path / "mark")}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content))
    for read in (load_smplx_file, count_joints):
        with pytest.raises(AdhmrError, match=r"x\.pkl: refused .*(posix|nt)\.system"):
            read(tmp_path / "x.pkl")
    assert not (tmp_path / "mark").exists()


def test_pickled_object_in_a_needed_place_is_refused(tmp_path: Path) -> None:
    made = {**made_smplx(), "J_regressor": np.array(_LeavesMark(tmp_path / "mark"), dtype=object)}
    np.savez(tmp_path / "x.npz", **made)
    with pytest.raises(AdhmrError, match="plain arrays"):
        load_smplx_file(tmp_path / "x.npz")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("posedirs", np.ones((60, 3, 207)), "'posedirs' .*expected .60, 3, 486."),
        ("weights", np.ones((60, 24)), "expected .60, 55. for SMPL-X's 55 joints"),
        ("shapedirs", np.ones((60, 3, 16)), "16 components, expected 20"),
        ("kintree_table", np.zeros((2, 55)), "SMPL-X's joint tree"),
        ("kintree_table", made_smpl()["kintree_table"], "an SMPL file .24 joints. where an SMPL-X file"),
        ("hands_meanl", np.ones(12), "45 numbers"),
        ("leaf_vertices", np.arange(56, 61), "below 60"),
        ("extra_vertex_ids", np.array([1, 60]), "below 60"),
    ],
)
def test_wrong_contents(tmp_path: Path, key: str, value: np.ndarray, message: str) -> None:
    np.savez(tmp_path / "wrong.npz", **{**made_smplx(), key: value})
    with pytest.raises(AdhmrError, match=rf"wrong\.npz: .*{message}"):
        load_smplx_file(tmp_path / "wrong.npz")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("leaf_vertices", "60 vertices and no 'leaf_vertices', and SMPL-X's ids hold for 10475"),
        ("hands_meanr", "hands"),
    ],
)
def test_missing_entries(tmp_path: Path, key: str, message: str) -> None:
    made = made_smplx()
    del made[key]
    np.savez(tmp_path / "part.npz", **made)
    with pytest.raises(AdhmrError, match=message):
        load_smplx_file(tmp_path / "part.npz")
