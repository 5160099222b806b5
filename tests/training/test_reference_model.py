"""The frozen reference is the model where the policy starts, or another one (iterated alignment with the reference
kept): what is compared, what is refused, what counts as the same run. Its price is in other files."""

import math
from pathlib import Path

import pytest
import torch

from adhmr.config.model import BaseModelConfig
from adhmr.errors import AdhmrError
from adhmr.models.base_model import BaseModel
from adhmr.models.weights import load_model, save_weights
from adhmr.training.run import run_stage
from adhmr.training.tasks.dpo import DpoTask
from adhmr.training.tracking import read_metrics
from tests.tiny import BASE, write_reading_base
from tests.training.steps import batch_of, changed, perturbed, snapshot, train

LOG2 = math.log(2)


@pytest.fixture
def first(tmp_path, tiny_weights) -> Path:
    """The base model of the first round."""
    path = tmp_path / "first.safetensors"
    write_reading_base(path, tiny_weights / "base.safetensors")
    return path


@pytest.fixture
def aligned(tmp_path, dpo_config, first) -> Path:
    """What the first round made of it: another denoiser with the same encoder."""
    path, task = tmp_path / "aligned.safetensors", perturbed(DpoTask(dpo_config(base=first)))
    save_weights(path, task.exported(task.model), task.kind, task.model_config())
    return path


def test_a_kept_reference_is_compared_with_and_stays(dpo_config, preferences, first, aligned):
    task = DpoTask(dpo_config(base=aligned, reference=first))
    batch = batch_of(task, preferences / "studio-error")
    loss, logs = task.loss(task.model, batch)
    assert abs(loss.item() - 2 * LOG2) > 1e-3 and logs["joint_winner_change"].abs() > 1e-3
    moved = DpoTask(dpo_config(base=aligned))
    assert abs(moved.loss(moved.model, batch)[0].item() - 2 * LOG2) < 1e-5
    before, wanted = snapshot(task.reference.model), load_model(first, "base").state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in before.items())
    train(task, batch, 2)
    assert not changed(task.reference.model, before)


def test_the_base_by_its_own_path_is_the_default(dpo_config, preferences, first):
    named, unnamed = DpoTask(dpo_config(base=first, reference=first)), DpoTask(dpo_config(base=first))
    batch = batch_of(named, preferences / "studio-error")
    assert named.reference.model.denoiser is not named.model
    assert not changed(named.reference.model, snapshot(unnamed.reference.model))
    loss = [task.loss(perturbed_alike(task).model, batch)[0].item() for task in (named, unnamed)]
    assert loss[0] == loss[1]


def perturbed_alike(task: DpoTask) -> DpoTask:
    torch.manual_seed(1)
    task.model.load_state_dict({name: torch.randn_like(value) for name, value in task.model.state_dict().items()})
    return task


def test_adapters_go_with_a_kept_reference(dpo_config, preferences, first, aligned):
    task = DpoTask(dpo_config(base=aligned, reference=first, lora={"rank": 2}))
    full = DpoTask(dpo_config(base=aligned, reference=first))
    batch = batch_of(task, preferences / "studio-error")
    torch.testing.assert_close(task.loss(task.model, batch)[0], full.loss(full.model, batch)[0])
    exported, wanted = task.exported(task.model).state_dict(), load_model(aligned, "base").state_dict()
    assert all(torch.equal(exported[name], tensor) for name, tensor in wanted.items())


def test_a_reference_with_another_encoder_needs_a_trained_encoder(dpo_config, tmp_path, first, preferences):
    torch.manual_seed(5)
    config = BaseModelConfig(**BASE)
    other = tmp_path / "other.safetensors"
    save_weights(other, BaseModel(config), "base", config.model_dump(mode="json"))
    with pytest.raises(
        AdhmrError, match=r"reference: .*other.safetensors has another encoder than .*first.safetensors"
    ):
        DpoTask(dpo_config(base=first, reference=other))
    task = DpoTask(dpo_config(base=first, reference=other, train_encoder=True))
    assert task.loss(task.model, batch_of(task, preferences / "studio-error"))[0].isfinite()


def test_a_reference_for_other_crops_is_refused(dpo_config, tmp_path, first):
    config = BaseModelConfig(**{**BASE, "crop_size": 96})
    other = tmp_path / "other.safetensors"
    save_weights(other, BaseModel(config), "base", config.model_dump(mode="json"))
    with pytest.raises(AdhmrError, match="made for crops of 96 and 64 px"):
        DpoTask(dpo_config(base=first, reference=other, train_encoder=True))


def test_another_reference_is_another_run(dpo_config, first, aligned, tmp_path):
    config = dpo_config(base=aligned, reference=first)
    config.output.mkdir()
    run_stage(config)
    longer = {**config.train.model_dump(), "steps": 3}
    with pytest.raises(AdhmrError, match=r"is a checkpoint of another run \(.*reference"):
        run_stage(dpo_config(base=aligned, reference=aligned, train=longer))


@pytest.mark.parametrize("ways", [{}, {"train_encoder": True}, {"lora": {"rank": 2}}])
def test_the_reference_rounds_as_the_policy_does(ways, dpo_config, first):
    """In bf16 rounding is larger than what an alignment learns in a step."""
    train = {"steps": 1, "global_batch": 4, "log_every": 1, "precision": "bf16"}
    config = dpo_config(base=first, train=train, **ways)
    config.output.mkdir()
    run_stage(config)
    assert read_metrics(config.output)[0]["loss"] == pytest.approx(2 * LOG2, rel=1e-5)
