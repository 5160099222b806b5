"""What the preflight finds on a node, with faults put in."""

import shutil
import time
from types import SimpleNamespace

import pytest

from adhmr.errors import AdhmrError
from launchers import preflight
from launchers.preflight import UnfitNode, check_node


@pytest.fixture
def run_dir(tmp_path):
    (tmp_path / "launch").mkdir()
    return tmp_path


def test_a_good_node(run_dir):
    check_node(run_dir, 0)
    assert list((run_dir / "launch").iterdir()) == []


def test_the_run_folder_is_not_there(run_dir):
    with pytest.raises(UnfitNode, match="cannot be used from here") as error:
        check_node(run_dir / "elsewhere", 0)
    assert error.value.exit_code == 87


def test_a_full_disk_is_not_the_nodes_fault(run_dir, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5))
    with pytest.raises(AdhmrError, match="make room") as error:
        check_node(run_dir, 0)
    assert error.value.exit_code == 2


def test_a_wrong_clock(run_dir, monkeypatch):
    real = time.time
    monkeypatch.setattr(preflight.time, "time", lambda: real() - 300)
    with pytest.raises(UnfitNode, match="differ by"):
        check_node(run_dir, 0)


def test_gpus_that_are_not_there(run_dir):
    with pytest.raises(UnfitNode, match="99 were asked for"):
        check_node(run_dir, 99)
