"""Fixtures of the body files' tests: classes that pickle as chumpy's do, and an SMPL-X file of the official size."""

import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.body.made_files import made_smplx


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


@pytest.fixture(scope="session")
def official_smplx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10,475 vertices, as the official site's SMPLX_NEUTRAL.npz: objects among the entries, no ids of ours."""
    path = tmp_path_factory.mktemp("smplx") / "SMPLX_NEUTRAL.npz"
    content = made_smplx(10475)
    for key in ("leaf_vertices", "extra_vertex_names", "extra_vertex_ids", "body_id"):
        del content[key]
    np.savez(path, **content)
    return path
