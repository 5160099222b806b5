"""The switches of alignment: what trains, whose noise, which numbers count, the objective, where the average starts."""

import json
import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from adhmr.body.codec import PoseCodec
from adhmr.config.data import AugmentConfig
from adhmr.config.generation import GenerateStage
from adhmr.config.model import BaseModelConfig
from adhmr.data.randomness import RandomKey
from adhmr.data.shard_reader import ShardReader
from adhmr.data.stream import collate
from adhmr.errors import AdhmrError
from adhmr.models.base_model import BaseModel
from adhmr.models.weights import load_model, save_weights
from adhmr.preference.generate import run_stage as generate
from adhmr.training.ema import WeightAverage
from adhmr.training.run import run_stage
from adhmr.training.tasks.dpo import DpoTask
from adhmr.training.tasks.pairs import PairTransform
from tests.tiny import BASE, CROP
from tests.training.steps import batch_of, changed, perturbed, snapshot, train

ENCODER = {"train_encoder": True, "encoder_lr_scale": 2.0, "encoder_head_lr_scale": 10.0}
HRNET = {
    "encoder": {"backbone": "hrnet_w18_small", "neck": "hrnet", "memory_dim": 32, "local_dim": 16},
    "denoiser": {**BASE["denoiser"], "preconditioning": "none", "anchor": False},
    "crop_size": CROP["size"],
}


@pytest.fixture(scope="module")
def truth_set(tmp_path_factory, studio_set, tiny_weights):
    """The released code's studio pairs: labels against zero-noise hypotheses."""
    output = tmp_path_factory.mktemp("truth")
    sets = [{"path": studio_set, "rankings": ["truth"]}]
    generate(
        GenerateStage(
            stage="generate", output=output, base=tiny_weights / "base.safetensors", sets=sets, crop=CROP, hypotheses=1
        )
    )
    return output / "studio-truth"


def wild(sample):
    """The sample as of a set with 2-D labels of the 24 joints alone (facts: InstaVariety)."""
    record = sample.record.copy()
    record["has_depth"] = record["has_twists"] = record["has_pose"] = record["has_betas"] = 0
    record["joints_conf"][24:] = 0
    record["joints_conf"][3] = 0.25
    return replace(sample, record=record)


# ------------------------------------------------------------------------------------------------ what trains
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
    assert "its features are of another encoder" in caplog.text
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_ema": "x"}, "base_ema needs train_encoder"),
        ({**ENCODER, "base_ema": "x", "train": {"steps": 1, "global_batch": 1, "ema_decay": None}}, "there is none"),
        ({"objective": "kto", "noise": "independent"}, "needs objective: dpo"),
    ],
)
def test_switches_that_exclude_each_other(dpo_config, changes, message):
    with pytest.raises(ValidationError, match=message):
        dpo_config(**changes)


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
    first, second = (task._errors(task.model, batch, *shown(task, batch)) for _ in range(2))
    assert not torch.equal(first[0]["joint"], second[0]["joint"]) and torch.equal(first[1]["joint"], second[1]["joint"])


# ------------------------------------------------------------------------------------------------ noise
def test_noise_is_shared_or_each_sides_own(dpo_config, preferences):
    shared, own = (DpoTask(dpo_config(noise=noise)) for noise in ("shared", "independent"))
    batch = batch_of(own, preferences / "studio-error")
    assert "loser_noise" not in batch_of(shared, preferences / "studio-error")
    assert torch.equal(batch["noise"], batch_of(shared, preferences / "studio-error")["noise"])
    again = batch_of(own, preferences / "studio-error")
    assert torch.equal(batch["loser_noise"], again["loser_noise"])
    assert abs(torch.corrcoef(torch.stack([batch["noise"].flatten(), batch["loser_noise"].flatten()]))[0, 1]) < 0.1
    # One hypothesis on both sides: only its noise can make a difference.
    same = {**batch, "loser": batch["winner"]}
    _, logs = perturbed(own).loss(own.model, same)
    assert logs["joint_winner_change"] != logs["joint_loser_change"]
    _, noise, t = own._shown(batch)
    assert torch.equal(noise[:, 2:], batch["loser_noise"]) and torch.equal(t[:, :2], t[:, 2:])


# ------------------------------------------------------------------------------------------------ masks
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


def shown(task: DpoTask, batch: dict):
    x0, noise, t = task._shown(batch)
    return task.schedule.q_sample(x0, t, noise), t, noise


def test_without_masks_all_numbers_count_whatever_the_label_knows(dpo_config, preferences):
    task = DpoTask(dpo_config())
    assert torch.equal(wild_batch(task, preferences / "studio-error")["weight"], torch.ones(4, 133))


def test_masked_numbers_stay_in_the_denominator(dpo_config, preferences):
    """A record that knows everything gives the loss without masks; of one that knows half, errors shrink, not grow."""
    full, masked = (perturbed_same(DpoTask(dpo_config(mask=mask, winner_weight=1.0))) for mask in ("full", "labels"))
    batch = batch_of(masked, preferences / "studio-error")
    torch.testing.assert_close(masked.loss(masked.model, batch)[0], full.loss(full.model, batch)[0])
    half = {**batch, "weight": batch["weight"] * 0.5}
    policy = [masked.loss(masked.model, part)[1]["joint_winner_change"] for part in (batch, half)]
    torch.testing.assert_close(policy[1], 0.5 * policy[0])


def perturbed_same(task: DpoTask) -> DpoTask:
    torch.manual_seed(1)
    return perturbed(task)


# ------------------------------------------------------------------------------------------------ KTO
def test_kto_shows_one_side_chosen_by_the_position(dpo_config, preferences):
    task = DpoTask(dpo_config(objective="kto"))
    batch = batch_of(task, preferences / "studio-error")
    x0, _, _ = task._shown(batch)
    assert x0.shape == (4, 2, 133)
    for n in range(4):
        for p in range(2):
            side = "winner" if batch["desirable"][n, p] else "loser"
            assert torch.equal(x0[n, p], batch[side][n, p])
    transform, sample = task.transform(), ShardReader(preferences / "studio-error").read(0)
    flips = np.concatenate([transform(sample, RandomKey(0, position))["desirable"] for position in range(100)])
    assert 70 < flips.sum() < 130
    assert np.array_equal(transform(sample, RandomKey(0, 7))["desirable"], flips[14:16])


def test_kto_by_the_formula(dpo_config, preferences):
    settings = {"objective": "kto", "beta": 50.0, "desirable_weight": 2.0, "undesirable_weight": 0.5}
    task = perturbed(DpoTask(dpo_config(**settings, winner_weight=0.1)))
    batch = batch_of(task, preferences / "studio-error")
    loss, logs = task.loss(task.model, batch)
    with torch.no_grad():
        x_t, t, noise = shown(task, batch)
        features = task.reference.features(batch)
        ours, theirs = (
            torch.cat(network(x_t[..., :87], x_t[..., 87:], t, features), -1)
            for network in (task.model, task.reference.model.denoiser)
        )
    expected = 0.0
    for part in (slice(0, 87), slice(87, 133)):
        error, reference = ((x - noise)[..., part].square().mean(-1).numpy() for x in (ours, theirs))
        gain = -(error - reference)
        kl = max(gain.mean(), 0.0)
        for g, e, desirable in zip(gain.flat, error.flat, batch["desirable"].flatten().tolist()):
            sign, weight = (1, 2.0) if desirable else (-1, 0.5)
            expected += weight * (1 - 1 / (1 + math.exp(-sign * 50.0 * (g - kl)))) / gain.size
            expected += 0.1 * e / batch["desirable"].sum().item() if desirable else 0.0
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert set(logs) == {
        f"{g}_{k}" for g in ("joint", "twist") for k in ("loss", "accuracy", "kl", "winner_change", "loser_change")
    }


@pytest.mark.parametrize("encoder", [{}, ENCODER], ids=["denoiser", "encoder"])
def test_kto_learns_a_fixed_batch(dpo_config, preferences, encoder):
    task = DpoTask(dpo_config(objective="kto", **encoder))
    batch = batch_of(task, preferences / "studio-error")
    losses = train(task, batch, 20, lr=1e-4)
    assert losses[0] == pytest.approx(1.0, abs=1e-6)  # two groups of weight 1 at sigmoid(0)
    assert np.mean(losses[-4:]) < losses[0] - 0.05


# ------------------------------------------------------------------------------------------------ pairs
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_pairs_move_with_the_augmented_crop(dpo_config, truth_set, flip):
    """The winner of a truth pair is the label: whatever the augmentation, it stays the label of the crop."""
    augment = AugmentConfig(flip_probability=flip, rotation_probability=1.0, shift=0.1)
    config = dpo_config(preferences=[{"path": truth_set}], pairs_per_image=1, augment=augment)
    task = DpoTask(config)
    assert not task.reference.stored_features
    transform = task.transform()
    for row in range(10):
        sample = ShardReader(truth_set).read(row)
        item, crop = transform(sample, RandomKey(0, row)), transform.crop(sample, RandomKey(0, row))
        winner = torch.from_numpy(item["winner"])
        uvd, twists = (part[0].numpy() for part in PoseCodec(CROP["size"]).decode(winner[:, :87], winner[:, 87:]))
        np.testing.assert_allclose(uvd, crop["uvd"], atol=1e-3)
        np.testing.assert_allclose(twists, crop["twists"], atol=1e-5)
        np.testing.assert_array_equal(item["image"], crop["image"])
        assert np.abs(uvd[:, :2] - sample.record["joints29_px"]).max() > 1  # it did move


def test_without_augmentation_the_crop_is_the_stored_one(dpo_config, truth_set):
    sample = ShardReader(truth_set).read(0)
    config = dpo_config(preferences=[{"path": truth_set}])
    item = PairTransform(config, CROP["size"], stored_features=False)(sample, RandomKey(0, 0))
    np.testing.assert_array_equal(item["image"], sample.image.transpose(2, 0, 1))


def test_a_set_may_be_occluded_more_than_the_others(dpo_config, truth_set):
    sample = ShardReader(truth_set).read(0)
    still = {name: 0.0 for name in ("scale", "rotation_probability", "flip_probability", "colour")}
    augment = AugmentConfig(**still, occlusion_probability=0.0)
    changed_images = []
    for probability in (None, 1.0):
        sets = [{"path": truth_set, "occlusion_probability": probability}]
        transform = DpoTask(dpo_config(preferences=sets, augment=augment)).transform()
        image = transform(sample, RandomKey(0, 0))["image"]
        changed_images.append(not np.array_equal(image, sample.image.transpose(2, 0, 1)))
    assert changed_images == [False, True]


def test_a_mixture_of_sets_with_and_without_features_reads_images(
    dpo_config, preferences, tmp_path, studio_set, tiny_weights
):
    sets = [{"path": studio_set, "rankings": ["error"]}]
    values = {"base": tiny_weights / "base.safetensors", "sets": sets, "crop": CROP, "hypotheses": 4, "pairs": 2}
    generate(GenerateStage(stage="generate", output=tmp_path / "plain", features="none", **values))
    both = [{"path": preferences / "studio-random"}, {"path": tmp_path / "plain" / "studio-error"}]
    config = dpo_config(preferences=both)
    config.output.mkdir()
    run_stage(config)
    assert json.loads((config.output / "done.json").read_text())["steps"] == 2
