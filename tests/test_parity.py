"""Equality with the reference implementations: tools/parity.py on the reference numbers, and on spoilt ones."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tools.parity_cases import CASES, run

TOOL = Path(__file__).resolve().parents[1] / "tools" / "parity.py"


def parity(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(TOOL), str(folder), *arguments], capture_output=True, text=True)


@pytest.fixture(scope="module")
def whole(reference_dir) -> subprocess.CompletedProcess[str]:
    """The tool on every case; minutes, for it builds, writes and imports the three models of the paper."""
    return parity(reference_dir)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference(whole, case):
    lines = [line for line in whole.stdout.splitlines() if line.split()[0] == case]
    assert len(lines) == 1 and lines[0].split()[1] == "ok", whole.stdout + whole.stderr


@pytest.mark.slow
def test_status_of_the_whole(whole):
    assert whole.returncode == 0
    assert whole.stdout.splitlines()[-1] == f"{len(CASES)} of {len(CASES)} cases equal the reference"


@pytest.fixture
def copy(reference_dir, tmp_path) -> Path:
    """The files of the cases without networks, to be spoilt."""
    for name in ("dpo_loss.npz", "rank_loss.npz", "denoising_loss.npz"):
        shutil.copyfile(reference_dir / name, tmp_path / name)
    return tmp_path


LOSSES = ("dpo-loss", "rank-loss", "denoising-loss")


def change(path: Path, **arrays: np.ndarray | None) -> None:
    with np.load(path) as archive:
        content = dict(archive) | arrays
    np.savez(path, **{name: array for name, array in content.items() if array is not None})


def test_an_error_beyond_the_tolerance_fails_and_names_its_case(copy):
    with np.load(copy / "dpo_loss.npz") as archive:
        damaged = archive["ref_joint"] * 1.01
    change(copy / "dpo_loss.npz", ref_joint=damaged)
    found = parity(copy, *(argument for case in LOSSES for argument in ("--only", case)))
    assert found.returncode == 1
    dpo, rank, denoising, total = found.stdout.splitlines()
    assert dpo.split()[:2] == ["dpo-loss", "OVER"] and "loss_joint" in dpo
    assert rank.split()[1] == denoising.split()[1] == "ok"
    assert total == "2 of 3 cases equal the reference"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "rank_loss.npz").unlink(), "no such file"),
        (lambda folder: change(folder / "rank_loss.npz", score=None), "score"),
        (lambda folder: (folder / "rank_loss.npz").write_bytes(b"PK\3\4 and no more"), ""),
        (lambda folder: change(folder / "rank_loss.npz", loss=np.full((2,), 350.3)), "shape"),
    ],
    ids=["missing file", "missing array", "damaged file", "other shape"],
)
def test_what_cannot_be_run_fails_and_the_others_go_on(copy, spoil, message):
    spoil(copy)
    (first, _), (holds, line), (last, _) = run(copy, LOSSES)
    assert first and last and not holds
    assert line.startswith("rank-loss") and "could not be run: " in line and message in line


def test_not_a_number_is_over_the_tolerance(copy):
    change(copy / "rank_loss.npz", loss=np.float32(np.nan))
    ((holds, line),) = run(copy, ["rank-loss"])
    assert not holds and "OVER" in line


def test_a_folder_that_is_not_there(tmp_path):
    found = parity(tmp_path / "nothing")
    assert found.returncode == 2 and "no such folder" in found.stderr
