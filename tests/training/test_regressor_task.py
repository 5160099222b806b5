"""Task "regressor": its loss, what stays frozen, labels of no weight, a turned crop, a run that is resumed."""

import json
import math

import numpy as np
import pytest
import roma
import torch
from pydantic import ValidationError

from adhmr.config.regressor import RegressorStage
from adhmr.models.regressor import RegressedBody
from adhmr.models.weights import load_model, read_metadata
from adhmr.training.run import run_stage
from adhmr.training.tasks.regressor import RegressorTask
from tests.tiny import CROP, REGRESSOR
from tests.training.steps import batch_of, changed, snapshot, train


@pytest.fixture
def regressor_config(tmp_path, studio_set, tiny_weights):
    """Makes a RegressorStage on ten people; keywords change it."""

    def make(**changes) -> RegressorStage:
        values = {
            "stage": "regressor",
            "output": tmp_path / "regressor",
            "data": {"sets": [{"path": str(studio_set)}], "crop": CROP, "augment": None, "workers": 0},
            "model": REGRESSOR,
            "encoder_weights": tiny_weights / "encoder.safetensors",
            "train": {"steps": 2, "global_batch": 4, "log_every": 1, "save_every": 1, "ema_decay": 0.5},
            "optim": {"lr": 1e-3, "warmup_steps": 0},
        }
        return RegressorStage(**{**values, **changes})

    return make


AUGMENTED = {"scale": 0.2, "rotation_degrees": 30, "rotation_probability": 1, "flip_probability": 0.5, "shift": 0.1}


class Truth(torch.nn.Module):
    """In the network's place: answers with the batch's own labels."""

    def __init__(self, batch: dict, root: torch.Tensor):
        super().__init__()
        self.answer = RegressedBody(roma.rotvec_to_rotmat(batch["pose"]), batch["betas"], root)

    def forward(self, image, intrinsics):
        return None, self.answer


@pytest.mark.parametrize("augment", [None, AUGMENTED])
def test_the_truth_costs_nothing_however_the_crop_was_turned(regressor_config, studio_set, augment):
    config = regressor_config()
    task = RegressorTask(regressor_config(data={**config.data.model_dump(), "augment": augment}))
    batch = batch_of(task, studio_set, count=8)
    intrinsics, seen = batch["intrinsics"], batch["uvd"][:, 0, :2]
    ray = (torch.linalg.inv(intrinsics) @ torch.cat([seen, torch.ones(8, 1)], 1)[..., None])[..., 0]
    parts = task.loss(Truth(batch, ray * batch["root_depth"][:, None]), batch)[1]
    assert set(parts) == {"rotations", "betas", "joints3d", "joints2d"}
    assert parts["rotations"] < 1e-8 and parts["betas"] == 0
    assert parts["joints3d"] < 2e-3 and parts["joints2d"] < 2e-3


def test_the_loss_falls_on_a_fixed_batch_and_adds_its_weighted_parts(regressor_config, studio_set):
    weights = {"rotations": 1.0, "betas": 0.5, "joints3d": 2.0, "joints2d": 3.0}
    weights |= {"encoder_joints2d": 0.3, "heatmap": 0.1, "depth": 4.0}
    task = RegressorTask(regressor_config(loss=weights))
    batch = batch_of(task, studio_set)
    loss, parts = task.loss(task.model, batch)
    assert set(parts) == set(weights)
    torch.testing.assert_close(loss, sum(weight * parts[name] for name, weight in weights.items()))
    losses = train(task, batch, 30, lr=3e-3)
    assert all(map(math.isfinite, losses)) and np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_labels_of_no_weight_do_not_count(regressor_config, studio_set):
    sets = [{"path": str(studio_set), "labels": []}]  # 24 joints in 2-D, and nothing else
    task = RegressorTask(regressor_config(data={"sets": sets, "crop": CROP, "augment": None, "workers": 0}))
    task.model.eval()
    batch = batch_of(task, studio_set)
    loss, parts = task.loss(task.model, batch)
    assert parts["rotations"] == parts["betas"] == parts["joints3d"] == 0 and parts["joints2d"] > 0
    other = {**batch, "pose": batch["pose"] + 0.3, "betas": batch["betas"] + 1, "uvd": batch["uvd"].clone()}
    other["uvd"][:, 24:] += 9.0
    other["uvd"][..., 2] += 0.5
    assert torch.equal(task.loss(task.model, other)[0], loss)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_encoder_keeps_weights_and_statistics(regressor_config, studio_set, frozen):
    task = RegressorTask(regressor_config(freeze_encoder=frozen))
    encoder, head = snapshot(task.model.encoder), snapshot(task.model.head)
    train(task, batch_of(task, studio_set), 2)
    assert changed(task.model.head, head)
    assert bool(changed(task.model.encoder, encoder)) is not frozen
    assert len(task.parameter_groups()) == (1 if frozen else 3)


def test_a_run_exports_a_regressor_and_resumes_exactly(regressor_config, tmp_path, studio_set):
    long = {"steps": 4, "global_batch": 4, "log_every": 1, "save_every": 2, "ema_decay": 0.5}
    validation = {"validation": {"path": str(studio_set)}, "validation_limit": 3, "freeze_encoder": True}
    whole = regressor_config(train=long, output=tmp_path / "whole", **validation)
    whole.output.mkdir()
    run_stage(whole)
    parts = regressor_config(train=long, output=tmp_path / "parts", **validation)
    parts.output.mkdir()
    run_stage(regressor_config(train={**long, "steps": 2}, output=tmp_path / "parts", **validation))
    run_stage(parts)
    file = parts.output / "model.safetensors"
    assert file.read_bytes() == (whole.output / "model.safetensors").read_bytes()
    assert load_model(file, "regressor").config == parts.model
    assert read_metadata(file)["crop_padding"] == parts.data.crop.padding
    last = json.loads((whole.output / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"evaluation/pve", "evaluation/pa_mpjpe", "rotations", "joints2d"} <= set(last)


def test_crops_of_another_size_are_refused(regressor_config):
    with pytest.raises(ValidationError, match=r"data.crop.size is 96, model.crop_size is 64"):
        regressor_config(data={"sets": [{"path": "somewhere"}], "crop": {"size": 96}})
