"""The three tasks: what their batches hold, what their losses are, what stays frozen, what is exported."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from adhmr.body.codec import PoseCodec
from adhmr.config.data import CropConfig
from adhmr.config.stages import BaseStage, DpoStage, ScorerStage
from adhmr.data.randomness import RandomKey
from adhmr.data.shard_reader import ShardReader
from adhmr.data.stream import collate
from adhmr.data.transforms import PersonCrop
from adhmr.errors import AdhmrError
from adhmr.models.weights import load_model, load_weights, save_weights
from adhmr.preference.records import features_to_array
from adhmr.training.run import data_of, run_stage
from adhmr.training.tasks.base import BaseTask, draw_timesteps
from adhmr.training.tasks.dpo import DpoTask
from adhmr.training.tasks.scorer import ScorerTask
from tests.tiny import BASE, CROP, SCORER

TRAIN = {"steps": 2, "global_batch": 4, "log_every": 1, "save_every": 1, "ema_decay": 0.5}
OPTIM = {"lr": 1e-3, "warmup_steps": 0}


def data(folder: Path) -> dict:
    return {"sets": [{"path": str(folder)}], "crop": CROP, "augment": None, "workers": 0}


@pytest.fixture
def base_config(tmp_path, studio_set, tiny_weights):
    def make(**changes) -> BaseStage:
        values = {
            "stage": "base",
            "output": tmp_path / "base",
            "data": data(studio_set),
            "model": BASE,
            "noise_draws": 2,
            "encoder_weights": tiny_weights / "encoder.safetensors",
            "train": TRAIN,
            "optim": OPTIM,
        }
        return BaseStage(**{**values, **changes})

    return make


@pytest.fixture
def scorer_config(tmp_path, studio_set, tiny_weights):
    def make(**changes) -> ScorerStage:
        values = {
            "stage": "scorer",
            "output": tmp_path / "scorer",
            "data": data(studio_set),
            "model": SCORER,
            "hypotheses": 6,
            "noise": {"kind": "mixed", "pose": 0.5, "root": 0.2, "betas": 0.3},
            "metric_vertices": 100,
            "encoder_weights": tiny_weights / "encoder.safetensors",
            "train": TRAIN,
            "optim": OPTIM,
        }
        return ScorerStage(**{**values, **changes})

    return make


@pytest.fixture
def dpo_config(tmp_path, preferences, tiny_weights):
    def make(**changes) -> DpoStage:
        values = {
            "stage": "dpo",
            "output": tmp_path / "align",
            "base": tiny_weights / "base.safetensors",
            "preferences": [{"path": preferences / "studio-error"}],
            "pairs_per_image": 2,
            "workers": 0,
            "train": TRAIN,
            "optim": OPTIM,
        }
        return DpoStage(**{**values, **changes})

    return make


def batch_of(task, folder: Path, count: int = 4, seed: int = 0) -> dict:
    reader, transform = ShardReader(folder), task.transform()
    items = [{**transform(reader.read(row), RandomKey(seed, row)), "position": row} for row in range(count)]
    return collate(items)


def train(task, batch: dict, steps: int, lr: float = 1e-3) -> list[float]:
    groups = [{"params": group["params"]} for group in task.parameter_groups()]
    optimizer = torch.optim.AdamW(groups, lr=lr)
    task.prepare(torch.device("cpu"))
    losses = []
    for _ in range(steps):
        task.model.train()  # as the trainer does
        loss, _ = task.loss(task.model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def snapshot(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(module: torch.nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}


# ------------------------------------------------------------------------------------------------ timesteps
@pytest.mark.parametrize("draws", [1, 2, 3, 4])
def test_timesteps_are_antithetic_over_the_whole_stream(draws):
    stream = np.concatenate([draw_timesteps(7, position, draws) for position in range(24)])
    first, second = stream.reshape(-1, 2).T
    np.testing.assert_array_equal(first + second, 999)
    assert first.min() >= 0 and first.max() <= 999 and len(set(first)) > len(first) // 2


def test_timesteps_are_uniform_and_keyed():
    drawn = np.concatenate([draw_timesteps(0, position, 4) for position in range(1000)])
    counts = np.histogram(drawn, 10, (0, 1000))[0]
    assert abs(counts / 400 - 1).max() < 0.2
    np.testing.assert_array_equal(draw_timesteps(0, 5, 4), drawn[20:24])
    assert not np.array_equal(draw_timesteps(1, 5, 4), drawn[20:24])


# ------------------------------------------------------------------------------------------------ base
def test_base_batches_hold_the_encoded_label(base_config, studio_set):
    batch = batch_of(BaseTask(base_config()), studio_set)
    uvd, twists = PoseCodec(CROP["size"]).decode(batch["x0"][:, :87], batch["x0"][:, 87:])
    torch.testing.assert_close(uvd, batch["uvd"], atol=1e-4, rtol=0)
    torch.testing.assert_close(twists, batch["twists"], atol=1e-6, rtol=0)
    assert batch["t"].shape == (4, 2) and batch["noise"].shape == (4, 2, 133)
    assert not torch.equal(batch["noise"][0], batch["noise"][1])


def test_base_loss_falls_on_a_fixed_batch_and_adds_its_weighted_parts(base_config, studio_set):
    weights = {"joints": 1.0, "twists": 0.5, "betas": 2.0, "joints2d": 3.0, "heatmap": 0.1, "depth": 4.0}
    task = BaseTask(base_config(loss=weights))
    batch = batch_of(task, studio_set)
    loss, parts = task.loss(task.model, batch)
    assert set(parts) == set(weights)
    torch.testing.assert_close(loss, sum(weight * parts[name] for name, weight in weights.items()))
    losses = train(task, batch, 20)
    assert all(map(math.isfinite, losses)) and np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_labels_of_no_weight_do_not_count(base_config, studio_set):
    task = BaseTask(base_config())
    task.model.eval()
    batch = batch_of(task, studio_set)
    batch["uvd_weight"][:, 5] = 0
    batch["twist_weight"][:, 7] = 0
    other = {**batch, "uvd": batch["uvd"].clone(), "betas": batch["betas"] + 1}
    other["uvd"][:, 5] = 1e3
    batch["betas_weight"] = other["betas_weight"] = torch.zeros(4)
    assert torch.equal(task.loss(task.model, batch)[0], task.loss(task.model, other)[0])


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_encoder_keeps_weights_and_statistics(base_config, studio_set, tiny_weights, frozen):
    task = BaseTask(base_config(freeze_encoder=frozen))
    encoder = task.model.encoder
    shipped, _ = load_weights(tiny_weights / "encoder.safetensors")
    assert all(torch.equal(tensor.float(), shipped[name].float()) for name, tensor in encoder.state_dict().items())
    before, denoiser = snapshot(encoder), snapshot(task.model.denoiser)
    train(task, batch_of(task, studio_set), 2)
    assert changed(task.model.denoiser, denoiser)
    touched = changed(encoder, before)
    if frozen:
        assert not touched
    else:
        assert any("running_mean" in name for name in touched) and any("weight" in name for name in touched)
    assert len(task.parameter_groups()) == (1 if frozen else 2)


def test_a_short_base_run_exports_a_base_model(base_config, tmp_path, studio_set):
    config = base_config(validation={"path": str(studio_set)}, validation_limit=3, freeze_encoder=True)
    config.output.mkdir()
    run_stage(config)
    assert load_model(config.output / "model.safetensors", "base").config == config.model
    lines = (config.output / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2 and '"evaluation/pve_zero"' in lines[-1]


# ------------------------------------------------------------------------------------------------ scorer
@pytest.mark.parametrize("variant", ["uvd", "2d", "pose6d"])
def test_scorer_loss_falls_on_a_fixed_batch(scorer_config, studio_set, variant):
    model = {**SCORER, "variant": variant, "relative": variant != "pose6d"}
    task = ScorerTask(scorer_config(model=model))
    losses = train(task, batch_of(task, studio_set), 20)
    same_for_all = 4 * 15 * math.log(2)  # four errors, 15 pairs: what a scorer pays that tells nothing apart
    assert all(map(math.isfinite, losses)) and np.mean(losses[-4:]) < 0.5 * same_for_all


def test_scorer_logs_and_weights(scorer_config, studio_set):
    weights = {"pve": 1.0, "pa_pve": 0.5, "mpjpe": 2.0, "pa_mpjpe": 0.0, "calibration": 3.0, "auxiliary": 0.1}
    task = ScorerTask(scorer_config(loss=weights, freeze_encoder=False))
    task.model.eval()
    loss, parts = task.loss(task.model, batch_of(task, studio_set))
    torch.testing.assert_close(loss, sum(weight * parts[name] for name, weight in weights.items()))
    assert 0 <= parts["pairs_ordered"] <= 1 and 5 < parts["pve_mm"] < 500
    assert set(parts) == {*weights, "pairs_ordered", "pve_mm"}


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_scorer_encoder_keeps_weights_and_statistics(scorer_config, studio_set, frozen):
    task = ScorerTask(scorer_config(freeze_encoder=frozen))
    encoder, head = snapshot(task.model.encoder), snapshot(task.model.head)
    train(task, batch_of(task, studio_set), 2)
    assert changed(task.model.head, head)
    assert bool(changed(task.model.encoder, encoder)) is not frozen


def test_hypotheses_of_a_position_are_always_the_same(scorer_config, studio_set):
    task = ScorerTask(scorer_config())
    first, again, other = (batch_of(task, studio_set, seed=seed)["pose_noise"] for seed in (0, 0, 1))
    assert first.shape == (4, 6, 85) and torch.equal(first, again) and not torch.equal(first, other)


# ------------------------------------------------------------------------------------------------ alignment
@pytest.fixture
def dpo(dpo_config, preferences) -> tuple[DpoTask, dict]:
    task = DpoTask(dpo_config())
    return task, batch_of(task, preferences / "studio-error")


def perturbed(task: DpoTask) -> DpoTask:
    with torch.no_grad():
        for parameter in task.model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return task


def test_the_first_alignment_loss_is_that_of_a_coin(dpo):
    task, batch = dpo
    loss, logs = task.loss(task.model, batch)
    assert abs(loss.item() - 2 * math.log(2)) < 1e-6
    for group in ("joint", "twist"):
        assert logs[f"{group}_accuracy"] == 0.5
        assert logs[f"{group}_margin"] == logs[f"{group}_winner_change"] == logs[f"{group}_loser_change"] == 0


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
    features = task.encoder(torch.zeros(4, 3, 64, 64))._replace(**{k: v.float() for k, v in stored.items()})
    joint, twist = task.model(x_t[..., :87], x_t[..., 87:], batch["t"], features)
    return (joint - batch["noise"][..., :87]).square().mean() + (twist - batch["noise"][..., 87:]).square().mean()


def test_alignment_learns_a_fixed_batch_and_touches_neither_reference_nor_encoder(dpo):
    task, batch = dpo
    reference, encoder = snapshot(task.reference), snapshot(task.encoder)
    losses = train(task, batch, 20, lr=1e-4)
    assert np.mean(losses[-4:]) < losses[0] - 0.05
    _, logs = task.loss(task.model, batch)
    assert logs["joint_accuracy"] > 0.6 and logs["joint_margin"] > 0
    assert not changed(task.reference, reference) and not changed(task.encoder, encoder)


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
        features = task.encoder(images)
    stored, transform = ShardReader(preferences / "studio-error"), task.transform()
    items = {"stored": [], "again": [], "image": [], "other": []}
    for n in range(4):
        sample = stored.read(n)
        again = replace(sample, extras={**sample.extras, "features.npy": features_to_array(features, n)})
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
