"""Stage reference: its errors are those that the reference has in the step, read by position, refused to other runs;
made by any number of workers."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from adhmr.config.alignment import DpoStage, ReferenceStage
from adhmr.data.shard_reader import ShardReader
from adhmr.errors import AdhmrError
from adhmr.models.weights import load_model, save_weights
from adhmr.training.reference_stage import run_stage
from adhmr.training.run import run_stage as run_training
from adhmr.training.tasks.dpo import DpoTask
from launchers.run_status import run_status
from launchers.slurm_queue import Queue
from tests.tiny import REPOSITORY, command_environment

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


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"objective": "kto", "features": "images"},
        {"noise": "independent", "mask": "labels", "augment": {}},
        {"train_encoder": True, "pairs_per_image": 1},
        {"lora": {"rank": 2}, "objective": "ipo", "weighting": "min_snr"},
    ],
    ids=["dpo", "kto", "augmented", "encoder", "lora"],
)
def test_a_run_with_stored_errors_is_the_run_without(dpo_config, stage, tmp_path, changes):
    plain = losses(dpo_config(train=TRAIN, output=tmp_path / "plain", **changes))
    run_stage(stage(**changes))
    np.testing.assert_allclose(losses(stored(dpo_config, tmp_path, **changes)), plain, rtol=1e-6, atol=1e-6)


def test_it_goes_on_after_an_interruption_in_micro_batches(dpo_config, stage, tmp_path):
    plain = losses(dpo_config(train=TRAIN, output=tmp_path / "plain"))
    run_stage(stage())
    train = {**TRAIN, "micro_batch": 2}
    losses(stored(dpo_config, tmp_path, train={**train, "steps": 2}))
    np.testing.assert_allclose(losses(stored(dpo_config, tmp_path, train=train)), plain, rtol=0, atol=1e-6)


def test_the_run_holds_no_reference(dpo_config, stage, tmp_path):
    run_stage(stage())
    model = DpoTask(stored(dpo_config, tmp_path)).reference.model
    assert model.encoder is None and model.denoiser is None


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"seed": 1}, "seed was 0, here 1"),
        ({"pairs_per_image": 1}, "pairs_per_image was 2, here 1"),
        ({"objective": "kto"}, 'showing was "pair", here "side"'),
        ({"noise": "independent"}, 'noise was "shared", here "independent"'),
        ({"mask": "labels"}, 'mask was "full", here "labels"'),
        ({"features": "images"}, 'features was "stored", here "images"'),
        ({"period": 32}, "period was 64, here 32"),
        ({"train": {**TRAIN, "precision": "bf16"}}, 'precision was "fp32", here "bf16"'),
    ],
)
def test_errors_of_another_run_are_refused(dpo_config, stage, tmp_path, changes, difference):
    run_stage(stage())
    with pytest.raises(AdhmrError, match=f"errors was made for another run: {difference}. Make"):
        DpoTask(stored(dpo_config, tmp_path, **changes))


def test_errors_of_other_weights_and_preferences_are_refused(dpo_config, stage, tmp_path, preferences):
    run_stage(stage())
    config = stored(dpo_config, tmp_path, preferences=[{"path": preferences / "studio-random"}])
    with pytest.raises(AdhmrError, match=r"studio-error was .*; preferences\.studio-random was null"):
        DpoTask(config)
    other = load_model(config.base, "base")
    with torch.no_grad():
        other.denoiser.blocks[0].linear1.bias += 1.0
    save_weights(tmp_path / "other.safetensors", other, "base", other.config.model_dump(mode="json"))
    with pytest.raises(AdhmrError, match="reference was "):
        DpoTask(stored(dpo_config, tmp_path, reference=tmp_path / "other.safetensors"))


def test_what_no_error_depends_on_may_differ(dpo_config, stage, tmp_path):
    run_stage(stage())
    changes = {"beta": 7.0, "norm": "single", "objective": "ipo", "weighting": "elbo", "winner_weight": 1.0}
    train = {**TRAIN, "global_batch": 2, "micro_batch": 1}
    DpoTask(stored(dpo_config, tmp_path, **changes, train=train, optim={"lr": 1.0}, skip_ranges=[(4, 6)]))


def test_positions_beyond_are_an_error_until_the_stage_has_run_again(dpo_config, stage, tmp_path):
    run_stage(stage())
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "errors").glob("*.npy")}
    changes = {"skip_ranges": [(4, 8)]}  # as a rewind leaves them out
    with pytest.raises(AdhmrError, match="holds 12 positions, the run has come to position 12: run its reference"):
        losses(stored(dpo_config, tmp_path, **changes))
    run_stage(stage({"train": {**TRAIN, "steps": 4}}))
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "errors").glob("*.npy")}
    assert len(before) == 3 and after.items() > before.items()  # what was there is kept
    plain = losses(dpo_config(train=TRAIN, output=tmp_path / "plain", **changes))
    np.testing.assert_allclose(losses(stored(dpo_config, tmp_path, **changes)), plain, rtol=0, atol=1e-6)
    run_stage(stage())  # fewer steps again: nothing is lost
    assert len(json.loads((tmp_path / "errors" / "index.json").read_text())) == 4


def test_another_sample_at_a_position_is_noticed(dpo_config, stage, tmp_path, preferences):
    run_stage(stage())
    task = DpoTask(stored(dpo_config, tmp_path))
    errors, right = task.reference.stored_errors, []
    for key in ShardReader(preferences / "studio-error").index.keys:
        try:
            right.append(errors.at(0, "studio-error", key))
        except AdhmrError as error:
            assert f"position 0 showed another sample than studio-error, {key}" in str(error)
    assert len(right) == 1 and right[0].shape == (4, 2)


def test_damage_and_unfinished_work_are_noticed(dpo_config, stage, tmp_path):
    with pytest.raises(AdhmrError, match=r"errors: has no reference\.json; expected the output of a finished"):
        DpoTask(stored(dpo_config, tmp_path))
    run_stage(stage())
    path = tmp_path / "errors" / "000000.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(AdhmrError, match=r"000000\.npy: is not what was written: delete it and run stage"):
        losses(stored(dpo_config, tmp_path))
    path.unlink()
    run_stage(stage())
    assert losses(stored(dpo_config, tmp_path))
    (tmp_path / "errors" / "index.json").unlink()
    with pytest.raises(AdhmrError, match=r"has no index\.json"):
        DpoTask(stored(dpo_config, tmp_path))


def test_a_folder_of_other_settings_is_refused(stage):
    run_stage(stage())
    with pytest.raises(AdhmrError, match="unit is 4, asked for 8"):
        run_stage(stage({"unit": 8}))


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"unit": 5}, "unit is 5, no multiple of images_per_batch 2"),
        ({"objective": "sft"}, "objective sft asks for no errors of a reference"),
    ],
)
def test_settings_that_make_no_sense_are_refused(stage, own, message):
    with pytest.raises(ValidationError, match=message):
        stage(own)


@pytest.mark.slow  # two processes that import everything
def test_two_workers_write_the_bytes_of_one_and_the_status_counts_their_units(stage, tmp_path):
    config = stage({"unit": 2})
    run_stage(config)
    shared = config.model_copy(update={"output": tmp_path / "shared"})
    values = json.loads(shared.model_dump_json(exclude_unset=True))
    (tmp_path / "reference.yaml").write_text(json.dumps(values))  # JSON is YAML
    line = [sys.executable, "-m", "adhmr.cli", "run", str(tmp_path / "reference.yaml")]
    workers = [subprocess.Popen(line, cwd=REPOSITORY, env=command_environment()) for _ in range(2)]
    assert [worker.wait(120) for worker in workers] == [0, 0]
    for path in config.output.glob("*.*"):
        assert (tmp_path / "shared" / path.name).read_bytes() == path.read_bytes()
    status = run_status(tmp_path / "shared", Queue())
    assert (status.stage, status.step, status.steps) == ("reference", 6, 6)
