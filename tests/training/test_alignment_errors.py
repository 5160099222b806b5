"""Which noise and which numbers of a hypothesis count in an alignment: shared or independent noise, masks by labels,
weights of timesteps."""

import math
from dataclasses import replace

import pytest
import torch

from adhmr.data.randomness import RandomKey
from adhmr.data.shard_reader import ShardReader
from adhmr.data.stream import collate
from adhmr.diffusion.schedule import LinearSchedule
from adhmr.diffusion.weighting import timestep_weights
from adhmr.training.tasks.dpo import DpoTask
from adhmr.training.tasks.pairs import shown
from tests.training.steps import batch_of, perturbed


def wild(sample):
    """The sample as of a set with 2-D labels of the 24 joints alone (facts: InstaVariety)."""
    record = sample.record.copy()
    record["has_depth"] = record["has_twists"] = record["has_pose"] = record["has_betas"] = 0
    record["joints_conf"][24:] = 0
    record["joints_conf"][3] = 0.25
    return replace(sample, record=record)


def test_noise_is_shared_or_each_sides_own(dpo_config, preferences):
    shared, own = (DpoTask(dpo_config(noise=noise)) for noise in ("shared", "independent"))
    batch, again = (batch_of(own, preferences / "studio-error") for _ in range(2))
    assert torch.equal(batch["noise"], again["noise"])
    assert torch.equal(batch["noise"][:, :, :1], batch_of(shared, preferences / "studio-error")["noise"])
    sides = batch["noise"].unbind(2)
    assert abs(torch.corrcoef(torch.stack([side.flatten() for side in sides]))[0, 1]) < 0.1
    # One hypothesis on both sides: only its noise can make a difference.
    same = {**batch, "x0": batch["x0"][:, :, :1].expand_as(batch["x0"])}
    _, logs = perturbed(own).loss(own.model, same)
    assert logs["joint_winner_change"] != logs["joint_loser_change"]
    x0, noise, t = shown(batch)
    assert x0.shape == noise.shape == (4, 4, 133) and torch.equal(noise[:, 2:], batch["noise"][:, 1])
    assert torch.equal(x0[:, :2], batch["x0"][:, 0])
    assert torch.equal(t[:, ::2], batch["t"]) and torch.equal(t[:, 1::2], batch["t"])


def test_timestep_weights_multiply_the_errors_of_both(dpo_config, preferences):
    plain, weighted = (perturbed(DpoTask(dpo_config(weighting=name)), seed=1) for name in ("constant", "min_snr"))
    batch = batch_of(plain, preferences / "studio-error")
    batch["t"] = torch.full_like(batch["t"], 50)
    factor = timestep_weights("min_snr", LinearSchedule())[50]
    assert factor < 0.2
    logs = [task.loss(task.model, batch)[1] for task in (plain, weighted)]
    for name in ("policy_error", "reference_error", "winner_change", "loser_change", "margin"):
        torch.testing.assert_close(logs[1][f"twist_{name}"], factor * logs[0][f"twist_{name}"])


def wild_batch(task: DpoTask, folder) -> dict:
    reader, transform = ShardReader(folder), task.transform()
    items = [{**transform(wild(reader.read(row)), RandomKey(0, row)), "position": row} for row in range(4)]
    return collate(items)


def test_label_masks_leave_the_wild_sets_2d_joints_alone(dpo_config, preferences):
    task = perturbed(DpoTask(dpo_config(mask="labels")))
    batch = wild_batch(task, preferences / "studio-error")
    expected = torch.zeros(29, 3)
    expected[:24, :2] = 1.0
    expected[3, :2] = 0.25
    assert torch.equal(batch["weight"][0], torch.cat([expected.flatten(), torch.zeros(46)]))

    loss, logs = task.loss(task.model, batch)
    assert logs["twist_loss"].item() == pytest.approx(math.log(2), abs=1e-7) and logs["twist_margin"] == 0
    loss.backward()
    assert task.model.twist_output.weight.grad.abs().max() == 0  # no gradient of the twists' own layer
    rows = task.model.joint_output.weight.grad.abs().amax(1).view(29, 3)  # one row for each number of x0
    assert torch.equal(rows > 0, expected > 0)


def test_without_masks_all_numbers_count_whatever_the_label_knows(dpo_config, preferences):
    task = DpoTask(dpo_config())
    assert torch.equal(wild_batch(task, preferences / "studio-error")["weight"], torch.ones(4, 133))


def test_masked_numbers_stay_in_the_denominator(dpo_config, preferences):
    """A record that knows everything gives the loss without masks; of one that knows half, errors shrink, not grow."""
    full, masked = (perturbed(DpoTask(dpo_config(mask=mask, winner_weight=1.0)), seed=1) for mask in ("full", "labels"))
    batch = batch_of(masked, preferences / "studio-error")
    torch.testing.assert_close(masked.loss(masked.model, batch)[0], full.loss(full.model, batch)[0])
    half = {**batch, "weight": batch["weight"] * 0.5}
    policy = [masked.loss(masked.model, part)[1]["joint_winner_change"] for part in (batch, half)]
    torch.testing.assert_close(policy[1], 0.5 * policy[0])
