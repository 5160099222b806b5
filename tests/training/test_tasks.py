"""Tasks base and scorer: what their batches hold, what their losses are, what stays frozen, what is exported."""

import math

import numpy as np
import pytest
import torch

from adhmr.body.codec import PoseCodec
from adhmr.errors import AdhmrError
from adhmr.models.weights import load_model, load_weights, read_metadata
from adhmr.preference.hypotheses import sample_hypotheses
from adhmr.training.run import run_stage
from adhmr.training.tasks.base import BaseTask, draw_timesteps
from adhmr.training.tasks.scorer import ScorerTask
from tests.tiny import CROP, SCORER
from tests.training.steps import batch_of, changed, snapshot, train


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
    assert len(task.parameter_groups()) == (1 if frozen else 3)


def test_a_short_base_run_exports_a_base_model(base_config, tmp_path, studio_set):
    config = base_config(validation={"path": str(studio_set)}, validation_limit=3, freeze_encoder=True)
    config.output.mkdir()
    run_stage(config)
    assert load_model(config.output / "model.safetensors", "base").config == config.model
    assert read_metadata(config.output / "model.safetensors")["crop_padding"] == config.data.crop.padding
    lines = (config.output / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2 and '"evaluation/pve_zero"' in lines[-1]


# ------------------------------------------------------------------------------------------------ scorer
@pytest.mark.parametrize("variant", ["uvd", "2d", "pose6d", "uvd_twist", "uvd_pose6d"])
def test_scorer_loss_falls_on_a_fixed_batch(scorer_config, studio_set, variant):
    model = {**SCORER, "variant": variant, "relative": variant != "pose6d"}
    task = ScorerTask(scorer_config(model=model))
    losses = train(task, batch_of(task, studio_set), 20)
    same_for_all = 4 * 15 * math.log(2)  # four errors, 15 pairs: what a scorer pays that tells nothing apart
    assert all(map(math.isfinite, losses)) and np.mean(losses[-4:]) < 0.5 * same_for_all


def test_scorer_logs_and_weights(scorer_config, studio_set):
    weights = {"pve": 1.0, "pa_pve": 0.5, "mpjpe": 2.0, "pa_mpjpe": 0.0, "calibration": 3.0}
    weights |= {"joints2d": 0.1, "heatmap": 0.2, "depth": 0.3}
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


def test_some_hypotheses_are_the_base_models_own(scorer_config, studio_set, tiny_weights):
    own = {"base": str(tiny_weights / "base.safetensors"), "count": 4}
    task, plain = ScorerTask(scorer_config(sampled=own)), ScorerTask(scorer_config())
    batch = batch_of(task, studio_set)
    found = task.hypotheses(batch)
    assert batch["pose_noise"].shape == (4, 2, 85) and batch["hypothesis_noise"].shape == (4, 4, 133)
    assert found.hypotheses.uvd.shape == (4, 6, 29, 3) and found.hypotheses.rotations.shape == (4, 6, 24, 3, 3)
    disturbed = plain.hypotheses(batch)
    torch.testing.assert_close(found.errors[:, :2], disturbed.errors)
    with torch.no_grad():
        features = task.base.encoder(batch["image"])
        mode = sample_hypotheses(task.base, features, torch.zeros(4, 1, 133), batch["image"].shape[-1])
    torch.testing.assert_close(found.hypotheses.uvd[:, 2:3], mode.uvd, atol=1e-3, rtol=1e-4)  # the zero-noise one
    losses = train(task, batch, 20)
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    assert not [name for name in task.model.state_dict() if name.startswith("base.")]  # it is neither trained nor saved


def test_ranks_are_taken_within_a_kind(scorer_config, studio_set, tiny_weights):
    own = {"base": str(tiny_weights / "base.safetensors"), "count": 4}
    task = ScorerTask(scorer_config(sampled=own, loss={"calibration": 0.0}))
    batch = batch_of(task, studio_set)
    raw = torch.randn(4, 6)

    def loss(shift: float) -> torch.Tensor:
        moved = raw + shift * torch.tensor([0.0, 0, 1, 1, 1, 1])
        return task.loss(lambda *_: (None, moved), batch)[0]

    torch.testing.assert_close(loss(0.0), loss(10.0))  # telling sampled from disturbed is worth nothing


def test_own_hypotheses_need_the_base_models_crops(scorer_config, studio_set, tiny_weights):
    base = str(tiny_weights / "base.safetensors")
    with pytest.raises(ValueError, match=r"sampled\.count is 5 of 6 hypotheses: keep two disturbed"):
        scorer_config(sampled={"base": base, "count": 5})
    data = {"sets": [{"path": str(studio_set)}], "crop": {**CROP, "size": 96}, "augment": None, "workers": 0}
    with pytest.raises(AdhmrError, match="was trained on crops of 64 px, the scorer's are 96 px"):
        ScorerTask(scorer_config(sampled={"base": base, "count": 2}, model={**SCORER, "crop_size": 96}, data=data))
