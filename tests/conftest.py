"""Fixtures that every test may use: where the reference numbers lie, and one thread per process."""

import os
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """The folder of reference numbers (ADHMR_REFERENCE, else ../shared/reference); skips where it is absent."""
    folder = Path(os.environ.get("ADHMR_REFERENCE", REPOSITORY.parent / "shared" / "reference"))
    if not (folder / "README.md").exists():
        pytest.skip(f"reference numbers not found in {folder}; set ADHMR_REFERENCE to their folder")
    return folder


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)
