"""The hash of the code that a stage runs: what it covers and what does not change it."""

import ast
import shutil
from pathlib import Path

import pytest

from adhmr.config.entry_points import STAGES
from launchers import code_version
from launchers.code_version import code_files

CODE = '''"""A module."""
from . import near
import adhmr.far  # why
TASK = "adhmr.named:Task"
TEXT = "# no comment"  # a comment


def add(a, b):
    """Of two numbers."""
    return a + b
'''


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A package of its own in the place of adhmr."""
    folder = tmp_path / "adhmr"
    (folder / "assets").mkdir(parents=True)
    for name in ("__init__", "near", "far", "named", "apart"):
        (folder / f"{name}.py").write_text("VALUE = 1\n")
    (folder / "main.py").write_text(CODE)
    monkeypatch.setattr(code_version, "ROOT", tmp_path)
    clear()
    yield folder
    clear()


def clear() -> None:
    for function in (code_files, code_version._read, code_version._asset, code_version._asset_names):
        function.cache_clear()


def version(package: Path) -> dict[str, str]:
    clear()
    return code_files("adhmr.main")


def test_all_that_can_be_imported_counts(package):
    assert list(version(package)) == [f"adhmr/{name}.py" for name in ("__init__", "far", "main", "named", "near")]


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        ("# why", "# for another reason", False),
        ("Of two numbers.", "The sum.", False),
        ("\n\n\ndef", "\n\ndef", False),
        ('"""A module."""\n', "", False),
        ("# no comment", "# a text", True),
        ("a + b", "b + a", True),
    ],
)
def test_comments_and_docstrings_do_not_count(package, before, after, changes):
    first = version(package)
    assert before in CODE
    (package / "main.py").write_text(CODE.replace(before, after))
    ast.parse((package / "main.py").read_text())
    assert (version(package) != first) == changes


def test_a_change_elsewhere_does_not_count(package):
    first = version(package)
    (package / "apart.py").write_text("VALUE = 2\n")
    assert version(package) == first
    (package / "far.py").write_text("VALUE = 2\n")
    changed = version(package)
    assert [name for name in first if first[name] != changed[name]] == ["adhmr/far.py"]


def test_a_data_file_that_is_named_counts(package):
    (package / "assets" / "poses.npz").write_bytes(b"1")
    (package / "far.py").write_text("FILE = 'poses.npz'\n")
    first = version(package)
    assert "adhmr/assets/poses.npz" in first
    (package / "assets" / "poses.npz").write_bytes(b"2")
    assert version(package) != first
    shutil.rmtree(package / "assets")
    (package / "assets").mkdir()
    assert "adhmr/assets/poses.npz" not in version(package)


def test_every_stage_has_its_own_code():
    clear()
    files = {stage: set(code_files(target.split(":")[0])) for stage, target in STAGES.items()}
    assert "adhmr/training/tasks/dpo.py" in files["dpo"]  # named in a string
    assert "adhmr/assets/poses.npz" in files["synth"]
    assert not any(name.startswith("adhmr/training/") for name in files["evaluate"])
    assert not any(name.startswith("adhmr/config/") for group in files.values() for name in group)
