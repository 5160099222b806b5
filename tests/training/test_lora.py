"""Adapters on the denoiser: they alone train and are saved, the policy starts at the reference, and what is exported is
a plain base model that says the same. Several processes: tests/distributed/test_alignment_strategies.py."""

import copy
import math
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from adhmr.models.masked_linear import MaskedLinear
from adhmr.models.weights import load_model, save_weights
from adhmr.training.run import run_stage
from adhmr.training.tasks.dpo import DpoTask
from adhmr.training.tracking import read_metrics
from tests.tiny import write_reading_base
from tests.training.steps import batch_of, changed, perturbed, snapshot, train

LORA = {"rank": 2, "alpha": 4.0}


@pytest.fixture
def base(tmp_path, tiny_weights) -> Path:
    path = tmp_path / "base.safetensors"
    write_reading_base(path, tiny_weights / "base.safetensors")
    return path


@pytest.fixture
def lora_config(dpo_config, base):
    return partial(dpo_config, base=base, lora=LORA)


@pytest.fixture
def lora(lora_config, preferences) -> tuple[DpoTask, dict]:
    task = DpoTask(lora_config())
    return task, batch_of(task, preferences / "studio-error")


def test_the_policy_starts_at_the_reference(lora):
    task, batch = lora
    loss, logs = task.loss(task.model, batch)
    assert abs(loss.item() - 2 * math.log(2)) < 1e-6
    assert logs["joint_accuracy"] == logs["twist_accuracy"] == 0.5


def test_adapters_alone_train_and_the_reference_shares_all_else(lora, base):
    task, batch = lora
    names = set(task.model.state_dict())
    assert names == {name for name, _ in task.model.named_parameters()} and all(".lora_" in name for name in names)
    assert len(names) == 2 * 2 * 10  # an A and a B in each of two blocks for two attentions of four layers and two more
    frozen = dict(task.reference.model.denoiser.named_parameters())
    assert task.model.joint_output.weight is frozen["joint_output.weight"]
    assert task.model.blocks[0].linear1.base_layer.weight is frozen["blocks.0.linear1.weight"]
    before = snapshot(task.model)
    losses = train(task, batch, 30, lr=1e-2)
    assert losses[-1] < 0.9 * losses[0]
    assert changed(task.model, before) == names
    assert not changed(task.reference.model, snapshot(load_model(base, "base")))


def test_the_exported_model_says_the_same_without_adapters(lora, base, tmp_path):
    task, batch = perturbed(lora[0]), lora[1]
    path = tmp_path / "aligned.safetensors"
    save_weights(path, task.exported(copy.deepcopy(task.model)), task.kind, task.model_config())
    aligned, base = load_model(path, "base"), load_model(base, "base")
    features = task.reference.features(batch)
    x_joint, x_twist, t = torch.randn(4, 3, 87), torch.randn(4, 3, 46), torch.randint(1000, (4, 3))
    with torch.no_grad():
        wanted = task.model.eval()(x_joint, x_twist, t, features)
        found, first = (model.denoiser(x_joint, x_twist, t, features) for model in (aligned, base))
    for one, other, start in zip(found, wanted, first):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
        assert (one - start).abs().max() > 1e-3
    moved = changed(aligned, snapshot(base))
    assert moved == {
        f"denoiser.{name}.weight"
        for name, part in base.denoiser.named_modules()
        if isinstance(part, torch.nn.Linear) and name.startswith("blocks.")
    }
    assert not any(isinstance(aligned.get_submodule(name.removesuffix(".weight")), MaskedLinear) for name in moved)


def test_the_trained_network_is_left_as_it_is_by_its_export(lora):
    task = perturbed(lora[0])
    before, frozen = snapshot(task.model), snapshot(task.reference.model)
    task.exported(task.model)
    assert not changed(task.model, before) and not changed(task.reference.model, frozen)


def test_targets_choose_the_layers(lora_config):
    task = DpoTask(lora_config(lora={**LORA, "targets": ["query", "linear2"]}))
    layers = {name.split(".lora_")[0].rpartition(".")[2] for name in task.model.state_dict()}
    assert layers == {"query", "linear2"} and len(task.model.state_dict()) == 2 * 2 * 3
    with pytest.raises(ValidationError, match=r"lora\.targets"):
        lora_config(lora={**LORA, "targets": ["joint_input"]})
    with pytest.raises(
        ValidationError, match="lora trains adapters of the denoiser alone: train_encoder must be false"
    ):
        lora_config(train_encoder=True)


def test_every_process_and_attempt_begins_with_the_same_adapters(lora_config):
    one = DpoTask(lora_config())
    torch.manual_seed(7)
    assert not changed(DpoTask(lora_config()).model, snapshot(one.model))
    assert changed(DpoTask(lora_config(seed=1)).model, snapshot(one.model))


def test_dropout_of_adapters_ends_with_training(lora_config, preferences):
    task = perturbed(DpoTask(lora_config(lora={**LORA, "dropout": 0.5})))
    batch = batch_of(task, preferences / "studio-error")
    x_joint, x_twist, t = torch.randn(4, 3, 87), torch.randn(4, 3, 46), torch.randint(1000, (4, 3))
    inputs = x_joint, x_twist, t, task.reference.features(batch)
    task.model.train()
    assert not torch.equal(task.model(*inputs)[0], task.model(*inputs)[0])
    task.model.eval()
    assert torch.equal(task.model(*inputs)[0], task.model(*inputs)[0])


def test_checkpoints_hold_adapters_alone_and_a_resumed_run_goes_on_exactly(lora_config):
    settings = {"steps": 4, "global_batch": 4, "log_every": 1, "save_every": 2, "keep_last": 9, "ema_decay": 0.5}
    config = lora_config(lora={**LORA, "dropout": 0.1}, train=settings)
    config.output.mkdir()
    run_stage(config)
    lines, whole = read_metrics(config.output), load_file(config.output / "model.safetensors")
    last = config.output / "checkpoints" / "step-00000004"
    for name in ("model", "ema"):
        state = load_file(last / f"{name}.safetensors")
        assert state and all(".lora_" in key for key in state)
    assert all(".lora_" in key for key in load_file(last / "optimizer.safetensors"))
    shutil.rmtree(last)
    for name in ("done.json", "model.safetensors", "model_raw.safetensors"):
        (config.output / name).unlink()
    run_stage(config)
    for line, wanted in zip(read_metrics(config.output), lines, strict=True):
        assert (line["loss"], line["grad_norm"]) == (wanted["loss"], wanted["grad_norm"])
    again = load_file(config.output / "model.safetensors")
    assert all(torch.equal(tensor, whole[key]) for key, tensor in again.items())


@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {"activation_checkpointing": True}])
def test_ways_to_train(changes, lora_config):
    own = {"steps": 2, "global_batch": 4, "log_every": 1}
    config = lora_config(train={**own, **changes})
    config.output.mkdir()
    run_stage(config)
    first, second = read_metrics(config.output)
    assert first["loss"] == pytest.approx(2 * math.log(2), rel=1e-5) and second["loss"] != first["loss"]
    assert first["grad_norm"] > 0
