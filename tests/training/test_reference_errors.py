"""Stage reference: its errors are those that the reference has in the step, read by position, refused to other runs;
made by any number of workers."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from adhmr.config.alignment import DpoStage, ReferenceStage
from adhmr.data.randomness import RandomKey
from adhmr.data.shard_reader import ShardReader
from adhmr.errors import AdhmrError
from adhmr.training.reference_errors import ReferenceErrors
from adhmr.training.reference_stage import run_stage
from adhmr.training.run import run_stage as run_training
from adhmr.training.tasks.dpo import DpoTask
from tests.training.steps import perturbed

TRAIN = {"steps": 3, "global_batch": 4, "log_every": 1, "save_every": 1, "ema_decay": 0.5}


@pytest.fixture
def stage(dpo_config, tmp_path):
    """Makes the reference stage of dpo_config's run, with the same changes and those of its own."""

    def make(own: dict | None = None, **changes) -> ReferenceStage:
        values = dpo_config(**{"train": TRAIN, **changes}).model_dump(exclude_unset=True)
        given = {"stage": "reference", "output": tmp_path / "errors", "unit": 4, "images_per_batch": 2, **(own or {})}
        return ReferenceStage(**{**values, **given})

    return make


def stored(dpo_config, tmp_path, **changes) -> DpoStage:
    return dpo_config(**{"train": TRAIN, "reference_errors": tmp_path / "errors", **changes})


def losses(config: DpoStage) -> list[float]:
    run_training(config)
    return [json.loads(line)["loss"] for line in (config.output / "metrics.jsonl").read_text().splitlines()]


def test_a_run_with_stored_errors_is_the_run_without(dpo_config, stage, tmp_path):
    plain = losses(dpo_config(train=TRAIN, output=tmp_path / "plain"))
    run_stage(stage())
    np.testing.assert_allclose(losses(stored(dpo_config, tmp_path)), plain, rtol=0, atol=1e-6)
