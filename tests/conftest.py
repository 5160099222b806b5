"""Fixtures that every test may use: where the reference numbers lie, the body, a few rendered people, tiny weights."""

import os
import sys
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))  # makes tests.tiny importable however pytest was started


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


@pytest.fixture(scope="session")
def body():
    from adhmr.body.body_model import BodyModel

    return BodyModel()


@pytest.fixture(scope="session")
def studio_set(tmp_path_factory) -> Path:
    """Ten rendered people with exact labels, 64 px, in shards of four."""
    from adhmr.data.synthetic.build import synthesise

    folder = tmp_path_factory.mktemp("people") / "studio"
    synthesise("synth-studio", folder, 10, seed=3, processes=1, image_size=64, samples_per_shard=4)
    return folder


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory) -> Path:
    """A folder with base.safetensors, scorer.safetensors and encoder.safetensors: random and tiny."""
    from tests.tiny import write_tiny_weights

    folder = tmp_path_factory.mktemp("weights")
    write_tiny_weights(folder)
    return folder


@pytest.fixture(scope="session")
def preferences(tmp_path_factory, studio_set, tiny_weights) -> Path:
    """What a generate stage wrote for studio_set: the folders studio-error, studio-scorer and studio-random."""
    from adhmr.config.generation import GenerateStage
    from adhmr.preference.generate import run_stage
    from tests.tiny import CROP

    output = tmp_path_factory.mktemp("preferences")
    config = GenerateStage(
        stage="generate",
        output=output,
        base=tiny_weights / "base.safetensors",
        scorer=tiny_weights / "scorer.safetensors",
        sets=[{"path": studio_set, "rankings": ["error", "scorer", "random"]}],
        crop=CROP,
        hypotheses=6,
        pairs=2,
        images_per_batch=3,
        unit=4,
    )
    run_stage(config)
    return output
