"""Body files: official-looking pickles, hostile ones, and files that are something else."""

import os
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roma
import scipy.sparse
import torch

from adhmr.body import BodyModel, JointRegressor
from adhmr.body.body_file import load_body_file
from adhmr.body.body_model import open_body_path
from adhmr.errors import AdhmrError
from tests.body.made_files import made_smpl, made_smplx, with_fields


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickle_with_chumpy_and_scipy_objects(tmp_path: Path, chumpy: types.SimpleNamespace, protocol: int) -> None:
    body = made_smpl()
    wide = np.concatenate([body["shapedirs"], np.ones((40, 3, 3))], axis=2)
    indices = np.arange(wide.size).reshape(wide.shape)[..., :10].ravel()
    content = {
        **body,
        "v_template": with_fields(chumpy.Ch, x=body["v_template"]),
        "shapedirs": with_fields(
            chumpy.Select, a=with_fields(chumpy.Ch, x=wide), idxs=indices, preferred_shape=(40, 3, 10)
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
    body = made_smpl()
    matrix = scipy.sparse.csc_matrix(body["J_regressor"])
    content = pickle.dumps({**body, "J_regressor": matrix}, protocol=2)
    assert b"cscipy.sparse._csc\n" in content
    path = tmp_path / "old.pkl"
    path.write_bytes(content.replace(b"cscipy.sparse._csc\n", b"cscipy.sparse.csc\n"))
    np.testing.assert_allclose(load_body_file(path)["J_regressor"], body["J_regressor"], rtol=1e-6)


def _as_python2_wrote_it(content: dict[str, Any]) -> bytes:
    """The module names that a pickle of the time of chumpy has."""
    written = pickle.dumps(content, protocol=2)
    for new, old in ((b"cscipy.sparse._csc\n", b"cscipy.sparse.csc\n"), (b"cnumpy._core.", b"cnumpy.core.")):
        assert new in written
        written = written.replace(new, old)
    return written


@pytest.mark.parametrize(
    ("name", "components"),
    [
        ("SMPL_NEUTRAL.pkl", 300),
        ("SMPL_MALE.pkl", 300),
        ("SMPL_FEMALE.pkl", 10),
        ("basicModel_f_lbs_10_207_0_v1.0.0.pkl", 10),
        ("basicModel_m_lbs_10_207_0_v1.0.0.pkl", 10),
    ],
)
def test_official_files_load_and_pose_as_their_plain_arrays(
    tmp_path: Path, chumpy: types.SimpleNamespace, name: str, components: int
) -> None:
    """SMPL's 6,890 vertices, double precision, chumpy directions, a sparse regressor, entries that nothing needs."""
    made = made_smpl(6890, components)
    np.savez(tmp_path / "plain.npz", **made)
    content = {
        **made,
        "shapedirs": with_fields(chumpy.Ch, x=made["shapedirs"], _dirty_vars=set(), _itr=None),
        "posedirs": with_fields(chumpy.Ch, x=made["posedirs"]) if name.startswith("basic") else made["posedirs"],
        "J_regressor": scipy.sparse.csc_matrix(made["J_regressor"]),
        "J_regressor_prior": scipy.sparse.csc_matrix(made["J_regressor"]),
        "J": with_fields(chumpy.Unknown, terms=("a", "b")),  # not read, so it need not be understood
        "vert_sym_idxs": np.arange(6890),
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }
    path = tmp_path / name
    path.write_bytes(_as_python2_wrote_it(content))
    for module in ("chumpy", "chumpy.ch", "chumpy.reordering"):
        del sys.modules[module]

    body, plain = BodyModel(path), BodyModel(tmp_path / "plain.npz")
    assert body.body_id == "smpl" and body.num_vertices == 6890 and body.file_components == components
    assert body.leaf_vertices.tolist() == [411, 2445, 5905, 3216, 6617]
    rotations = roma.rotvec_to_rotmat(0.3 * torch.randn(2, 24, 3))
    posed, expected = body(rotations, torch.ones(2, 10)), plain(rotations, torch.ones(2, 10))
    torch.testing.assert_close(posed, expected, atol=1e-6, rtol=1e-6)  # sums of several threads differ in last bits
    for (buffer, found), (_, wanted) in zip(body.named_buffers(), plain.named_buffers(), strict=True):
        assert torch.equal(found, wanted), buffer

    regressor = np.random.default_rng(0).random((17, 6890)).astype(np.float32)
    np.save(tmp_path / "J_regressor_h36m.npy", regressor)
    joints = JointRegressor.load(tmp_path / "J_regressor_h36m.npy", body)(posed.vertices)
    torch.testing.assert_close(joints, torch.from_numpy(regressor) @ posed.vertices)


class _RunsCommand:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


def test_hostile_pickle_is_refused_by_name_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    path = tmp_path / "hostile.pkl"
    path.write_bytes(pickle.dumps({**made_smpl(), "bs_type": _RunsCommand(f"touch {mark}")}))
    with pytest.raises(AdhmrError, match=r"hostile\.pkl: refused .*(posix|nt)\.system"):
        load_body_file(path)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["eval", "getattr", "exec", "__import__"])
def test_dangerous_builtins_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "hostile.pkl"
    path.write_bytes(f"cbuiltins\n{name}\n(S'1'\ntR.".encode())
    with pytest.raises(AdhmrError, match=rf"builtins\.{name}"):
        load_body_file(path)


def test_fields_that_describe_no_array_are_a_clear_error(tmp_path: Path, chumpy: types.SimpleNamespace) -> None:
    circle = with_fields(chumpy.Ch)
    circle.x = circle
    beyond = with_fields(chumpy.Select, a=np.ones(3), idxs=np.array([7]))
    for name, value in (("circle", circle), ("beyond", beyond)):
        path = tmp_path / f"{name}.pkl"
        path.write_bytes(pickle.dumps({**made_smpl(), "v_template": value}))
        with pytest.raises(AdhmrError, match=rf"{name}\.pkl: 'v_template': .*npz"):
            load_body_file(path)


def test_unknown_chumpy_object_names_its_fields(tmp_path: Path, chumpy: types.SimpleNamespace) -> None:
    path = tmp_path / "odd.pkl"
    path.write_bytes(pickle.dumps({**made_smpl(), "v_template": with_fields(chumpy.Unknown, left=1, right=2)}))
    with pytest.raises(AdhmrError, match=r"\['left', 'right'\].*npz"):
        load_body_file(path)


def test_missing_file() -> None:
    with pytest.raises(AdhmrError, match="no such body file"):
        load_body_file("nowhere/SMPL_NEUTRAL.pkl")


def test_missing_keys_are_listed(tmp_path: Path) -> None:
    body = made_smpl()
    del body["posedirs"], body["weights"]
    np.savez(tmp_path / "part.npz", **body)
    with pytest.raises(AdhmrError, match="missing posedirs, weights"):
        load_body_file(tmp_path / "part.npz")


@pytest.mark.parametrize("name", ["cut.npz", "cut.pkl"])
def test_a_file_that_was_not_copied_whole(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "cut.npz":
        np.savez(path, **made_smpl())
    else:
        path.write_bytes(pickle.dumps(made_smpl()))
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(AdhmrError, match=rf"{name}: not a readable .*get the file again"):
        load_body_file(path)


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
        ("v_template", np.float64(1.0), "not in SMPL's format"),
        ("extra_vertex_names", np.array(["nose"]), "extra_vertex_names"),
        ("J_regressor", np.array({}, dtype=object), "plain arrays"),
    ],
)
def test_wrong_contents(tmp_path: Path, key: str, value: np.ndarray, message: str) -> None:
    np.savez(tmp_path / "wrong.npz", **{**made_smpl(), key: value})
    with pytest.raises(AdhmrError, match=message):
        load_body_file(tmp_path / "wrong.npz")


def test_a_file_of_another_family_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "SMPLX_MALE.npz", **made_smplx())
    with pytest.raises(AdhmrError, match=r"SMPLX_MALE\.npz: an SMPL-X file \(55 joints\) where an SMPL file"):
        load_body_file(tmp_path / "SMPLX_MALE.npz")


def test_unknown_mesh_needs_leaf_vertices(tmp_path: Path) -> None:
    body = made_smpl()
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
