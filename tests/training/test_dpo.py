"""Alignment with the default switches: the loss, what trains, stored features, the exported model. The switches are in
test_alignment_switches.py."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from adhmr.body.codec import PoseCodec
from adhmr.config.data import CropConfig
from adhmr.data.randomness import RandomKey
from adhmr.data.shard_reader import ShardReader
from adhmr.data.stream import collate
from adhmr.data.transforms import PersonCrop
from adhmr.errors import AdhmrError
from adhmr.models.weights import load_model, save_weights
from adhmr.preference.records import features_to_array
from adhmr.training.run import data_of
from adhmr.training.tasks.dpo import DpoTask
from tests.tiny import CROP
from tests.training.steps import batch_of, changed, perturbed, snapshot, train


@pytest.fixture
def dpo(dpo_config, preferences) -> tuple[DpoTask, dict]:
    task = DpoTask(dpo_config())
    return task, batch_of(task, preferences / "studio-error")


def test_the_first_alignment_loss_is_that_of_a_coin(dpo):
    task, batch = dpo
    loss, logs = task.loss(task.model, batch)
    assert abs(loss.item() - 2 * math.log(2)) < 1e-6
    for group in ("joint", "twist"):
        assert logs[f"{group}_accuracy"] == 0.5
        assert logs[f"{group}_margin"] == logs[f"{group}_winner_change"] == logs[f"{group}_loser_change"] == 0


def test_aligned_weights_keep_what_the_base_says_of_its_crops(dpo_config, tiny_weights, tmp_path):
    base = load_model(tiny_weights / "base.safetensors", "base")
    config = base.config.model_dump(mode="json")
    save_weights(tmp_path / "base.safetensors", base, "base", config, {"crop_padding": 1.3, "step": 9})
    assert DpoTask(dpo_config(base=tmp_path / "base.safetensors")).weights_metadata() == {"crop_padding": 1.3}


def test_a_single_norm_has_one_term(dpo_config, preferences):
    task = DpoTask(dpo_config(norm="single"))
    loss, logs = task.loss(task.model, batch_of(task, preferences / "studio-error"))
    assert abs(loss.item() - math.log(2)) < 1e-6 and logs["pose_accuracy"] == 0.5


def test_the_winner_weight_adds_the_winners_own_errors(dpo_config, dpo):
    _, batch = dpo
    plain, weighted = (perturbed_same(DpoTask(dpo_config(winner_weight=w))).loss for w in (0.0, 2.0))
    task = perturbed_same(DpoTask(dpo_config()))
    own = winner_errors(task, batch)
    torch.testing.assert_close(weighted(task.model, batch)[0], plain(task.model, batch)[0] + 2.0 * own)


def perturbed_same(task: DpoTask) -> DpoTask:
    torch.manual_seed(1)
    return perturbed(task)


@torch.no_grad()
def winner_errors(task: DpoTask, batch: dict) -> torch.Tensor:
    """Mean squared errors of the winners' noise, joints and twists added, by the formula."""
    signal, spread = task.schedule.coefficients(batch["t"])
    x_t = signal * batch["winner"] + spread * batch["noise"]
    stored = {name.removeprefix("features_"): value for name, value in batch.items() if name.startswith("features_")}
    features = task.reference.model.encoder(torch.zeros(4, 3, 64, 64))
    features = features._replace(**{k: v.float() for k, v in stored.items()})
    joint, twist = task.model(x_t[..., :87], x_t[..., 87:], batch["t"], features)
    return (joint - batch["noise"][..., :87]).square().mean() + (twist - batch["noise"][..., 87:]).square().mean()


def test_alignment_learns_a_fixed_batch_and_touches_neither_reference_nor_encoder(dpo):
    task, batch = dpo
    reference, encoder = snapshot(task.reference.model), snapshot(task.reference.model.encoder)
    losses = train(task, batch, 20, lr=1e-4)
    assert np.mean(losses[-4:]) < losses[0] - 0.05
    _, logs = task.loss(task.model, batch)
    assert logs["joint_accuracy"] > 0.6 and logs["joint_margin"] > 0
    assert not changed(task.reference.model, reference) and not changed(task.reference.model.encoder, encoder)


def test_winner_and_loser_share_timestep_and_noise(dpo_config, preferences):
    task = perturbed(DpoTask(dpo_config()))
    batch = batch_of(task, preferences / "studio-error")
    same = {**batch, "loser": batch["winner"]}
    _, logs = task.loss(task.model, same)
    assert logs["joint_margin"].abs() < 1e-6 and logs["joint_winner_change"] == logs["joint_loser_change"] != 0


def test_stored_features_stand_for_the_image(dpo_config, preferences, studio_set):
    task = perturbed(DpoTask(dpo_config()))
    reader, crop = ShardReader(studio_set), PersonCrop(CropConfig(**CROP), None)
    images = torch.from_numpy(np.stack([crop(reader.read(n), RandomKey(0, n))["image"] for n in range(4)]))
    with torch.no_grad():
        features = task.reference.model.encoder(images)
    stored, transform = ShardReader(preferences / "studio-error"), task.transform()
    items = {"stored": [], "again": [], "image": [], "other": []}
    for n in range(4):
        sample = stored.read(n)
        again = replace(sample, extras={**sample.extras, "features.npy": features_to_array(features, n, "fp16")})
        items["stored"].append(transform(sample, RandomKey(0, n)))
        items["again"].append(transform(again, RandomKey(0, n)))
        without = {name: value for name, value in sample.extras.items() if name != "features.npy"}
        item = transform(replace(sample, extras=without), RandomKey(0, n))
        assert item["image"].shape == (3, 64, 64) and not any(name.startswith("features") for name in item)
        items["image"].append({**item, "image": images[n].numpy()})
        items["other"].append({**item, "image": images[(n + 1) % 4].numpy()})
    with torch.no_grad():
        loss = {name: task.loss(task.model, collate(batch))[0].item() for name, batch in items.items()}
    assert abs(loss["again"] / loss["image"] - 1) < 0.01  # half precision
    assert abs(loss["stored"] / loss["image"] - 1) < 0.01
    assert abs(loss["other"] / loss["image"] - 1) > 0.02


def test_an_image_with_fewer_pairs_gives_some_twice_and_one_without_is_refused(dpo_config, preferences):
    transform = DpoTask(dpo_config(pairs_per_image=5)).transform()
    sample = ShardReader(preferences / "studio-error").read(0)
    item = transform(sample, RandomKey(0, 0))
    assert item["winner"].shape == item["loser"].shape == item["noise"].shape == (5, 133)
    assert len(np.unique(item["winner"], axis=0)) <= 2
    with pytest.raises(AdhmrError, match=f"sample {sample.key}: holds no pairs"):
        transform(replace(sample, extras={}), RandomKey(0, 0))


def test_pairs_are_encoded_as_they_were_stored(dpo_config, preferences):
    task = DpoTask(dpo_config())
    sample = ShardReader(preferences / "studio-error").read(0)
    item = task.transform()(sample, RandomKey(0, 0))
    winner = torch.from_numpy(item["winner"])
    uvd, twists = (part.numpy() for part in PoseCodec(64).decode(winner[:, :87], winner[:, 87:]))
    pairs = sample.extras["pairs.npy"]
    order = [int(np.abs(pairs["winner_uvd"] - one).max((1, 2)).argmin()) for one in uvd]
    np.testing.assert_allclose(uvd, pairs["winner_uvd"][order], atol=1e-3)
    np.testing.assert_allclose(twists, pairs["winner_twists"][order], atol=1e-5)


def test_the_aligned_model_is_a_base_model_with_the_bases_encoder(dpo_config, tmp_path, tiny_weights, preferences):
    task = perturbed(DpoTask(dpo_config()))
    path = tmp_path / "aligned.safetensors"
    save_weights(path, task.exported(copy.deepcopy(task.model)), task.kind, task.model_config())
    base, aligned = load_model(tiny_weights / "base.safetensors", "base"), load_model(path, "base")
    assert not changed(aligned.encoder, snapshot(base.encoder))
    assert not changed(aligned.denoiser, snapshot(task.model))
    assert changed(aligned.denoiser, snapshot(base.denoiser))


def test_two_preference_folders_of_one_name_are_refused_in_one_line(dpo_config, preferences):
    path = preferences / "studio-error"
    with pytest.raises(AdhmrError, match="two sets are called studio-error"):
        data_of(dpo_config(preferences=[{"path": path}, {"path": path.parent / "." / "studio-error"}]))
    with pytest.raises(AdhmrError, match="preferences: "):
        data_of(dpo_config(preferences=[]))
