"""What makes the reference cheap changes nothing: each saving against the plain way, two whole models that see pair
after pair, winner and loser apart. In fp32, to 1e-6."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from adhmr.data.shard_reader import ShardReader
from adhmr.models.base_model import BaseModel
from adhmr.models.weights import load_model
from adhmr.preference.records import features_from_batch
from adhmr.training.tasks.dpo import DpoTask
from adhmr.training.tasks.pairs import shown
from tests.training.preference_folders import in_fp32
from tests.training.steps import batch_of, perturbed

PAIRS = 2  # of each of four images


@pytest.fixture
def policy(dpo_config) -> BaseModel:
    """The base with a denoiser that differs from the reference's."""
    torch.manual_seed(1)
    task = perturbed(DpoTask(dpo_config()))
    model = load_model(task.config.base, "base")
    model.denoiser.load_state_dict(task.model.state_dict())
    return model


def with_weights(task: DpoTask, policy: BaseModel) -> DpoTask:
    task.model.load_state_dict((policy if task.config.train_encoder else policy.denoiser).state_dict())
    return task


def plain_errors(model: BaseModel, schedule, batch: dict) -> Tensor:
    """(N, H, 2), by the formula: one hypothesis of one image at a time, each with an encoder pass of its own."""
    x0, noise, t = shown(batch)
    signal, spread = schedule.coefficients(t)
    x_t = signal * x0 + spread * noise
    errors = torch.zeros(*t.shape, 2)
    for n, h in np.ndindex(*t.shape):
        one = (slice(n, n + 1), slice(h, h + 1))
        _, joint, twist = model(batch["image"][n : n + 1], x_t[one][..., :87], x_t[one][..., 87:], t[one])
        squares = batch["weight"][n] * (torch.cat([joint, twist], -1)[0, 0] - noise[n, h]).square()
        errors[n, h] = torch.stack([squares[:87].mean(), squares[87:].mean()])
    return errors


def plain_loss(policy: BaseModel, reference: BaseModel, task: DpoTask, batch: dict) -> Tensor:
    ours = plain_errors(policy, task.schedule, batch)
    with torch.no_grad():
        theirs = plain_errors(reference, task.schedule, batch)
    change = (ours - theirs).unflatten(1, (PAIRS, 2))  # (N, P, 2, 2): winner, loser; joints, twists
    margin = change[:, :, 1] - change[:, :, 0]
    return -torch.nn.functional.logsigmoid(0.5 * task.config.beta * margin).mean((0, 1)).sum()


@pytest.mark.parametrize("train_encoder", [False, True])
def test_one_pass_of_all_pairs_is_pair_after_pair_by_two_models(dpo_config, preferences, policy, train_encoder):
    task = with_weights(DpoTask(dpo_config(features="images", beta=1.0, train_encoder=train_encoder)), policy)
    batch = batch_of(task, preferences / "studio-error")
    loss, _ = task.loss(task.model, batch)
    loss.backward()
    other = copy.deepcopy(policy)
    plain = plain_loss(other, load_model(task.config.base, "base"), task, batch)
    plain.backward()
    torch.testing.assert_close(loss, plain, rtol=1e-6, atol=1e-6)
    trained = dict((other if train_encoder else other.denoiser).named_parameters())
    for name, parameter in task.model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, trained[name].grad, rtol=1e-4, atol=1e-6)


def test_features_in_single_precision_are_the_images(dpo_config, preferences, policy, tmp_path):
    folder = in_fp32(preferences / "studio-error", tmp_path / "single", policy)
    losses = {}
    for features in ("stored", "images"):
        config = dpo_config(preferences=[{"path": folder}], features=features, beta=1.0)
        task = with_weights(DpoTask(config), policy)
        batch = batch_of(task, folder)
        assert ("image" in batch) == (features == "images")
        losses[features] = task.loss(task.model, batch)[0]
    torch.testing.assert_close(losses["stored"], losses["images"], rtol=0, atol=1e-6)
    stored = features_from_batch(batch_of(DpoTask(dpo_config(preferences=[{"path": folder}])), folder))
    images = torch.from_numpy(np.stack([ShardReader(folder).read(n).image.transpose(2, 0, 1) for n in range(4)]))
    with torch.no_grad():
        seen = policy.encoder(images)
    for name in ("memory", "local", "joints2d", "depth"):
        torch.testing.assert_close(getattr(stored, name), getattr(seen, name), rtol=0, atol=1e-5)
