"""The objectives of an alignment and what each is shown: pairs, sides, winners or groups of hypotheses."""

import json
import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from adhmr.body.codec import PoseCodec
from adhmr.config.alignment import SHOWINGS, DpoStage
from adhmr.config.generation import GenerateStage
from adhmr.data.randomness import RandomKey
from adhmr.data.shard_reader import ShardReader
from adhmr.errors import AdhmrError
from adhmr.preference.generate import run_stage as generate
from adhmr.training.run import run_stage
from adhmr.training.tasks.dpo import DpoTask
from tests.tiny import CROP
from tests.training.steps import batch_of, changed, noised, perturbed, snapshot, train

ENCODER = {"train_encoder": True}
# What a part of the loss is where the policy equals the reference; three hypotheses of an image have 3! orders.
CONSTANTS = {
    "dpo": math.log(2),
    "ipo": 0.25,
    "kto": 0.5,
    "plackett_luce": math.log(6) / 2,
    "advantage": math.log(2),
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory, studio_set, tiny_weights):
    """A preference folder with all six hypotheses of each image."""
    output = tmp_path_factory.mktemp("kept")
    base, sets = tiny_weights / "base.safetensors", [{"path": studio_set, "rankings": ["error"]}]
    values = {"base": base, "sets": sets, "crop": CROP, "hypotheses": 6, "pairs": 2, "keep": "all"}
    generate(GenerateStage(stage="generate", output=output, **values))
    return output / "studio-error"


@pytest.fixture
def aligned(dpo_config, kept):
    """Makes a task on the kept hypotheses, with a batch of it."""

    def make(objective: str, **changes) -> tuple[DpoTask, dict]:
        task = DpoTask(dpo_config(preferences=[{"path": kept}], objective=objective, group_size=3, **changes))
        return task, batch_of(task, kept)

    return make


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_ema": "x"}, "base_ema needs train_encoder"),
        ({**ENCODER, "base_ema": "x", "train": {"steps": 1, "global_batch": 1, "ema_decay": None}}, "there is none"),
        ({"objective": "kto", "noise": "independent"}, "several hypotheses at once; kto shows one"),
        ({"objective": "sft", "noise": "independent"}, "several hypotheses at once; sft shows one"),
        ({"objective": "sft", "winner_weight": 1.0}, "set it to 0"),
        ({"objective": "advantage", "group_size": 1}, "greater than or equal to 2"),
    ],
)
def test_switches_that_exclude_each_other(dpo_config, changes, message):
    with pytest.raises(ValidationError, match=message):
        dpo_config(**changes)


# ------------------------------------------------------------------------------------------------ all objectives
def test_every_objective_says_what_it_is_shown():
    assert set(SHOWINGS) == set(get_args(DpoStage.model_fields["objective"].annotation))


@pytest.mark.parametrize("norm", ["group", "single"])
@pytest.mark.parametrize("objective", CONSTANTS)
def test_a_policy_that_equals_the_reference_pays_a_constant(aligned, objective, norm):
    task, batch = aligned(objective, norm=norm)
    loss, logs = task.loss(task.model, batch)
    parts = ("joint", "twist") if norm == "group" else ("pose",)
    assert loss.item() == pytest.approx(len(parts) * CONSTANTS[objective], abs=2e-6)
    for part in parts:
        assert not any(figure.requires_grad for name, figure in logs.items() if not name.endswith("_loss"))
        assert logs[f"{part}_accuracy"] == 0.5 and logs[f"{part}_policy_error"] == logs[f"{part}_reference_error"] > 0
        for name in ("margin", "winner_change", "loser_change", "kl"):
            assert logs[f"{part}_{name}"] == 0


@pytest.mark.parametrize("encoder", [{}, ENCODER], ids=["denoiser", "encoder"])
@pytest.mark.parametrize("objective", SHOWINGS)
def test_every_objective_learns_a_fixed_batch(aligned, objective, encoder):
    task, batch = aligned(objective, **encoder)
    before = snapshot(task.model)
    losses = train(task, batch, 20, lr=1e-4)
    assert np.isfinite(losses).all() and np.mean(losses[-4:]) < losses[0] - 0.02
    assert changed(task.model, before)
    if objective != "sft":
        logs = task.loss(task.model, batch)[1]
        assert logs["joint_margin"] + logs["twist_margin"] > 0


def test_the_objectives_of_groups_are_dpos_for_groups_of_two(dpo_config, kept):
    losses = []
    for objective in ("plackett_luce", "advantage"):
        config = dpo_config(preferences=[{"path": kept}], objective=objective, group_size=2)
        task = perturbed(DpoTask(config), seed=1)
        batch = batch_of(task, kept)
        pairs = perturbed(DpoTask(dpo_config(preferences=[{"path": kept}])), seed=1)
        losses += [task.loss(task.model, batch)[0], pairs.loss(pairs.model, batch)[0]]
    for loss in losses:
        torch.testing.assert_close(loss, losses[0])


@pytest.mark.parametrize("objective", ["plackett_luce", "advantage", "sft"])
def test_a_run_of_an_objective_ends_with_its_figures(dpo_config, kept, objective):
    config = dpo_config(preferences=[{"path": kept}], objective=objective, weighting="elbo")
    config.output.mkdir()
    run_stage(config)
    last = json.loads((config.output / "metrics.jsonl").read_text().splitlines()[-1])
    assert all(
        math.isfinite(last[f"{part}_{name}"]) for part in ("joint", "twist") for name in ("loss", "policy_error")
    )


# ------------------------------------------------------------------------------------------------ groups
def test_a_group_is_drawn_from_all_hypotheses_best_first(aligned, kept):
    _, batch = aligned("plackett_luce")
    assert batch["x0"].shape == (4, 2, 3, 133) and batch["value"].shape == (4, 2, 3)
    assert (batch["value"].diff(dim=-1) <= 0).all()
    for row in range(4):
        hypotheses = ShardReader(kept).read(row).extras["hypotheses.npy"]
        for x0, values in zip(batch["x0"][row], batch["value"][row], strict=True):
            uvd, twists = (part.numpy() for part in PoseCodec(CROP["size"]).decode(x0[:, :87], x0[:, 87:]))
            found = [int(np.abs(hypotheses["uvd"] - one).max((1, 2)).argmin()) for one in uvd]
            assert len(set(found)) == 3
            np.testing.assert_allclose(uvd, hypotheses["uvd"][found], atol=1e-3)
            np.testing.assert_allclose(twists, hypotheses["twists"][found], atol=1e-5)
            np.testing.assert_array_equal(values, hypotheses["value"][found])


def test_groups_belong_to_the_position(aligned, kept):
    task, _ = aligned("advantage")
    transform, sample = task.transform(), ShardReader(kept).read(0)
    first, again, other = (transform(sample, RandomKey(0, position))["value"] for position in (5, 5, 6))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_folders_and_images_that_an_objective_cannot_use_are_refused(dpo_config, preferences, aligned, kept):
    pairs_only = ShardReader(preferences / "studio-error").read(0)
    sample, key = ShardReader(kept).read(0), RandomKey(0, 0)
    with pytest.raises(AdhmrError, match=f"sample {pairs_only.key}: holds pairs only.*advantage.*keep: all"):
        DpoTask(dpo_config(objective="advantage")).transform()(pairs_only, key)
    config = dpo_config(preferences=[{"path": kept}], objective="advantage", group_size=7)
    with pytest.raises(AdhmrError, match="holds 6 hypotheses; group_size 7"):
        DpoTask(config).transform()(sample, key)
    without = replace(sample, extras={**sample.extras, "pairs.npy": sample.extras["pairs.npy"][:0]})
    with pytest.raises(AdhmrError, match=r"none of its hypotheses made a pair.*objective: ipo.*keep: pairs"):
        aligned("ipo")[0].transform()(without, key)
    aligned("advantage")[0].transform()(without, key)


# ------------------------------------------------------------------------------------------------ winners
def test_fine_tuning_shows_winners_alone_and_asks_no_reference(aligned, monkeypatch):
    task, batch = aligned("sft")
    pairs = aligned("dpo")[1]
    assert torch.equal(batch["x0"], pairs["x0"][:, :, :1]) and torch.equal(batch["noise"], pairs["noise"])
    monkeypatch.setattr(task.reference, "errors", lambda *_: pytest.fail("asked for the reference's errors"))
    loss, logs = task.loss(task.model, batch)
    torch.testing.assert_close(loss, logs["joint_policy_error"] + logs["twist_policy_error"])
    assert set(logs) == {f"{part}_{name}" for part in ("joint", "twist") for name in ("loss", "policy_error")}


# ------------------------------------------------------------------------------------------------ KTO
def test_kto_shows_one_side_chosen_by_the_position(aligned, kept):
    task, batch = aligned("kto")
    pairs = aligned("dpo")[1]
    assert batch["x0"].shape == (4, 2, 1, 133)
    lost = (batch["value"] < 0).long()  # (4, 2, 1)
    expected = pairs["x0"].gather(2, lost[..., None].expand(-1, -1, -1, 133))
    assert torch.equal(batch["x0"], expected)
    transform, sample = task.transform(), ShardReader(kept).read(0)
    values = np.concatenate([transform(sample, RandomKey(0, position))["value"] for position in range(100)])
    assert set(values.flat) == {-1.0, 1.0} and 70 < (values > 0).sum() < 130
    assert np.array_equal(transform(sample, RandomKey(0, 7))["value"], values[14:16])


def test_kto_by_the_formula(aligned):
    settings = {"beta": 50.0, "desirable_weight": 2.0, "undesirable_weight": 0.5, "winner_weight": 0.1}
    task, batch = aligned("kto", **settings)
    perturbed(task)
    loss, logs = task.loss(task.model, batch)
    with torch.no_grad():
        x_t, t, noise = noised(task, batch)
        features = task.reference.features(batch)
        ours, theirs = (
            torch.cat(network(x_t[..., :87], x_t[..., 87:], t, features), -1)
            for network in (task.model, task.reference.model.denoiser)
        )
    winners = (batch["value"] > 0).flatten().tolist()
    expected = 0.0
    for part in (slice(0, 87), slice(87, 133)):
        error, reference = ((x - noise)[..., part].square().mean(-1).numpy() for x in (ours, theirs))
        gain = -(error - reference)
        baseline = max(gain.mean(), 0.0)
        for g, e, desirable in zip(gain.flat, error.flat, winners, strict=True):
            sign, weight = (1, 2.0) if desirable else (-1, 0.5)
            expected += weight * (1 - 1 / (1 + math.exp(-sign * 50.0 * (g - baseline)))) / gain.size
            expected += 0.1 * e / sum(winners) if desirable else 0.0
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert "joint_baseline" in logs and "twist_margin" in logs
