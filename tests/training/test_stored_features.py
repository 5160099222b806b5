"""Which features an alignment takes: those of the shards, of the images, and what is said when the stored ones do not
fit."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from adhmr.data.randomness import RandomKey
from adhmr.data.shard_reader import ShardReader
from adhmr.errors import AdhmrError
from adhmr.models.weights import load_model, save_weights
from adhmr.preference.records import encode_array, features_to_array
from adhmr.training.tasks.dpo import DpoTask
from tests.training.preference_folders import rewritten
from tests.training.steps import batch_of


def test_stored_features_are_nearly_those_of_the_images(dpo_config, preferences):
    losses = {}
    for features in ("stored", "images"):
        task = DpoTask(dpo_config(features=features, norm="single"))
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in task.model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        batch = batch_of(task, preferences / "studio-error")
        assert ("image" in batch) == (features == "images") != any(name.startswith("features_") for name in batch)
        losses[features] = task.loss(task.model, batch)[0].item()
        moved = {name: v.roll(1, 0) if name.startswith(("image", "features_")) else v for name, v in batch.items()}
        assert abs(task.loss(task.model, moved)[0].item() / losses[features] - 1) > 0.02  # of another image
    assert abs(losses["stored"] / losses["images"] - 1) < 0.01  # half precision


def test_a_run_from_stored_features_holds_no_encoder(dpo_config):
    assert DpoTask(dpo_config(features="stored")).reference.model.encoder is None
    assert DpoTask(dpo_config(features="images")).reference.model.encoder is not None


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("missing", "000001.tar holds no features; generate with"),
        ("encoder", "000001.tar holds features of another encoder"),
        ("precision", "000001.tar holds features made in bf16, but train.precision is fp32"),
        ("type", "features differ in type: float16 in other/000000.tar, float32 in other/000001.tar"),
    ],
)
def test_every_shard_is_looked_at(dpo_config, preferences, tmp_path, tiny_weights, caplog, broken, message):
    base = load_model(tiny_weights / "base.safetensors", "base").requires_grad_(False)

    def change(row: int, provenance: dict, extras: dict) -> None:
        if row < 4:
            return
        if broken == "missing":
            del extras["features.npy"]
        elif broken == "type":
            image = torch.zeros(1, 3, 64, 64)
            extras["features.npy"] = encode_array(features_to_array(base.encoder(image), 0, "fp32"))
        else:
            provenance |= {"encoder": {"encoder": "of-another"}, "precision": {"precision": "bf16"}}[broken]

    folder = rewritten(preferences / "studio-error", tmp_path / "other", change)
    sets = {"preferences": [{"path": folder}]}
    with pytest.raises(AdhmrError, match=message):
        DpoTask(dpo_config(**sets, features="stored"))
    with caplog.at_level(logging.WARNING):
        assert not DpoTask(dpo_config(**sets)).reference.stored_features
    assert ("made from the images" in caplog.text) == (broken != "missing")


def test_features_made_in_bf16_serve_a_run_in_bf16(dpo_config, preferences, tmp_path):
    def change(row: int, provenance: dict, extras: dict) -> None:
        provenance["precision"] = "bf16"

    folder = rewritten(preferences / "studio-error", tmp_path / "other", change)
    train = {"steps": 1, "global_batch": 4, "precision": "bf16"}
    task = DpoTask(dpo_config(preferences=[{"path": folder}], features="stored", train=train))
    assert task.reference.stored_features


@pytest.mark.parametrize("changes", [{"train_encoder": True}, {"augment": {}}])
def test_stored_features_of_crops_that_change_are_refused(dpo_config, changes):
    with pytest.raises(ValidationError, match="features: stored are the frozen encoder's"):
        dpo_config(features="stored", **changes)


def test_a_sample_without_features_among_others_is_named(dpo_config, preferences):
    sample = ShardReader(preferences / "studio-error").read(0)
    transform = DpoTask(dpo_config()).transform()
    with pytest.raises(AdhmrError, match=f"sample {sample.key}: holds no features"):
        transform(replace(sample, extras={"pairs.npy": sample.extras["pairs.npy"]}), RandomKey(0, 0))


def test_an_aligned_model_has_the_bases_encoder_although_the_run_held_none(dpo_config, tmp_path):
    task = DpoTask(dpo_config(features="stored"))
    save_weights(tmp_path / "aligned.safetensors", task.exported(task.model), task.kind, task.model_config())
    base, aligned = load_model(task.config.base, "base"), load_model(tmp_path / "aligned.safetensors", "base")
    for name, tensor in base.state_dict().items():
        np.testing.assert_array_equal(aligned.state_dict()[name], tensor)
