"""What trains in an alignment, and in which precision: the denoiser, or the encoder too; where the average starts."""

import logging
import math

import numpy as np
import pytest
import torch

from adhmr.config.model import BaseModelConfig
from adhmr.errors import AdhmrError
from adhmr.models.base_model import BaseModel
from adhmr.models.weights import load_model, save_weights
from adhmr.training.ema import WeightAverage
from adhmr.training.run import run_stage
from adhmr.training.tasks.dpo import DpoTask
from tests.tiny import BASE, CROP
from tests.training.steps import batch_of, changed, noised, perturbed, snapshot, train

ENCODER = {"train_encoder": True, "encoder_lr_scale": 2.0, "encoder_head_lr_scale": 10.0}
HRNET = {
    "encoder": {"backbone": "hrnet_w18_small", "neck": "hrnet", "memory_dim": 32, "local_dim": 16},
    "denoiser": {**BASE["denoiser"], "preconditioning": "none", "anchor": False},
    "crop_size": CROP["size"],
}


@pytest.mark.parametrize("model", [BASE, HRNET], ids=["fpn", "hrnet"])
def test_a_trained_encoder_trains_whatever_the_denoiser_reads(dpo_config, preferences, tmp_path, model):
    config = BaseModelConfig(**model)
    torch.manual_seed(0)
    whole = BaseModel(config)
    for module in whole.modules():  # running statistics of trained weights are not those of fresh layers
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
    save_weights(tmp_path / "base.safetensors", whole, "base", config.model_dump(mode="json"))
    task = DpoTask(dpo_config(base=tmp_path / "base.safetensors", **ENCODER))
    batch = batch_of(task, preferences / "studio-error")
    assert abs(task.loss(task.model, batch)[0].item() - 2 * math.log(2)) < 1e-3  # errors of random weights are large

    perturbed(task).loss(task.model, batch)[0].backward()
    trained = {name for name, part in task.model.named_parameters() if part.requires_grad}
    reached = {name for name, part in task.model.named_parameters() if part.grad is not None}
    frozen = {name for name, _ in task.model.named_parameters()} - trained
    assert trained == reached  # DDP waits for ever for one that is not reached
    assert frozen and all("betas" in name or "depth_maps" in name for name in frozen)
    for part in ("encoder.neck.backbone.conv1.weight", "encoder.heatmaps.weight"):
        assert task.model.get_parameter(part).grad.abs().max() > 0

    scales = {scale: 0 for scale in (1.0, 2.0, 10.0)}
    names = {id(part): name for name, part in task.model.named_parameters()}
    for group in task.parameter_groups():
        for part in group["params"]:
            scales[group["lr_scale"]] += 1
            in_encoder, in_trunk = (names[id(part)].startswith(at) for at in ("encoder.", "encoder.neck.backbone."))
            assert group["lr_scale"] == (2.0 if in_trunk else 10.0 if in_encoder else 1.0)
    assert sum(scales.values()) == len(trained) and all(scales.values())


def test_a_trained_encoder_keeps_its_statistics_and_the_reference_its_weights(dpo_config, preferences):
    task = DpoTask(dpo_config(**ENCODER))
    batch = batch_of(task, preferences / "studio-error")
    before, reference = snapshot(task.model), snapshot(task.reference.model)
    losses = train(task, batch, 20, lr=1e-4)
    assert np.mean(losses[-4:]) < losses[0] - 0.05
    touched = changed(task.model, before)
    assert not any("running" in name or "num_batches" in name for name in touched)
    assert any(name.startswith("encoder.neck.smooth.1.weight") for name in touched)  # a batch norm's affine part
    assert any(name.startswith("denoiser.") for name in touched)
    assert not changed(task.reference.model, reference)


def test_a_trained_encoder_does_not_read_stored_features(dpo_config, preferences):
    assert "image" not in batch_of(DpoTask(dpo_config()), preferences / "studio-error")
    batch = batch_of(DpoTask(dpo_config(**ENCODER)), preferences / "studio-error")
    assert batch["image"].shape == (4, 3, 64, 64) and not any(name.startswith("features_") for name in batch)


def test_features_of_another_encoder_are_not_used(dpo_config, preferences, tmp_path, tiny_weights, caplog):
    other = load_model(tiny_weights / "base.safetensors", "base")
    with torch.no_grad():
        other.encoder.heatmaps.bias += 1.0
    save_weights(tmp_path / "other.safetensors", other, "base", other.config.model_dump(mode="json"))
    with caplog.at_level(logging.WARNING):
        task = DpoTask(dpo_config(base=tmp_path / "other.safetensors"))
    assert "holds features of another encoder" in caplog.text
    assert "image" in batch_of(task, preferences / "studio-error")


def test_a_run_with_a_trained_encoder_exports_it_and_goes_on_from_the_bases_average(
    dpo_config, tmp_path, tiny_weights, studio_set
):
    average = perturbed_base(tiny_weights, tmp_path)
    config = dpo_config(
        **ENCODER,
        base_ema=tmp_path / "ema.safetensors",
        train={"steps": 3, "global_batch": 4, "save_every": 1, "ema_decay": 0.75},
        validation={"path": str(studio_set)},
        validation_limit=2,
    )
    config.output.mkdir()
    run_stage(config)
    base = load_model(config.base, "base")
    raw, averaged = (load_model(config.output / f"{name}.safetensors", "base") for name in ("model_raw", "model"))
    name = "neck.smooth.0.weight"
    starts, ends, start = (m.encoder.get_parameter(name) for m in (base, raw, average))
    assert not torch.equal(starts, ends)
    # Three updates at the full decay: at least 0.75 ** 3 of the average's distance from the weights is left.
    left = (averaged.encoder.get_parameter(name) - ends).norm() / (start - ends).norm()
    assert 0.40 < left < 0.44
    # Another average is another run; the same one goes on.
    (tmp_path / "moved.safetensors").write_bytes((tmp_path / "ema.safetensors").read_bytes())
    run_stage(config.model_copy(update={"base_ema": tmp_path / "moved.safetensors"}))
    longer = config.train.model_copy(update={"steps": 4})
    with pytest.raises(AdhmrError, match="checkpoint of another run"):
        run_stage(config.model_copy(update={"base_ema": config.base, "train": longer}))


def perturbed_base(tiny_weights, folder) -> BaseModel:
    model = load_model(tiny_weights / "base.safetensors", "base")
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    save_weights(folder / "ema.safetensors", model, "base", model.config.model_dump(mode="json"))
    return model


def test_an_average_that_goes_on_keeps_its_decay():
    weights, former = {"weight": torch.randn(1, 2)}, {"weight": torch.zeros(1, 2)}
    fresh, going_on = WeightAverage(weights, 0.9), WeightAverage(weights, 0.9, goes_on=True)
    going_on.load(former)
    first = fresh.held["weight"].clone()
    torch.testing.assert_close(first, weights["weight"])
    for average in (fresh, going_on):
        average.update({"weight": torch.ones(1, 2)}, updates=0)
    torch.testing.assert_close(fresh.held["weight"], 0.1 * first + 0.9)  # decay (1 + 0) / (10 + 0)
    torch.testing.assert_close(going_on.held["weight"], torch.full((1, 2), 0.1))


def test_an_average_of_another_model_is_refused(dpo_config, tmp_path):
    other = BaseModelConfig(**{**BASE, "denoiser": {**BASE["denoiser"], "reaches": [7]}})
    save_weights(tmp_path / "other.safetensors", BaseModel(other), "base", other.model_dump(mode="json"))
    with pytest.raises(AdhmrError, match=r"base_ema: .*other.safetensors is a model of another configuration"):
        DpoTask(dpo_config(**ENCODER, base_ema=tmp_path / "other.safetensors")).initial_average()


@pytest.mark.parametrize("encoder", [{}, ENCODER], ids=["denoiser", "encoder"])
def test_in_half_precision_policy_and_reference_round_alike(dpo_config, preferences, encoder):
    training = {"steps": 2, "global_batch": 4, "precision": "bf16"}
    task = DpoTask(dpo_config(**encoder, train=training))
    batch = batch_of(task, preferences / "studio-error")
    wrapped = torch.autocast("cpu", torch.bfloat16)(task.model.forward)  # as the trainer does
    loss, logs = task.loss(wrapped, batch)
    assert abs(loss.item() - 2 * math.log(2)) < 1e-6 and logs["joint_winner_change"] == 0


@pytest.mark.parametrize("encoder", [{}, ENCODER], ids=["denoiser", "encoder"])
def test_the_policy_has_dropout_and_the_reference_has_none(dpo_config, preferences, tmp_path, encoder):
    config = BaseModelConfig(**{**BASE, "denoiser": {**BASE["denoiser"], "dropout": 0.5}})
    torch.manual_seed(0)
    model = BaseModel(config)
    torch.nn.init.normal_(model.denoiser.joint_output.weight)  # zero at first, and dropout would not be seen
    save_weights(tmp_path / "base.safetensors", model, "base", config.model_dump(mode="json"))
    task = DpoTask(dpo_config(base=tmp_path / "base.safetensors", **encoder))
    batch = batch_of(task, preferences / "studio-error")
    task.model.train()  # as the trainer does
    first, second = (task._errors(task.model, batch, *noised(task, batch)) for _ in range(2))
    assert not torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
