"""Hypotheses move with the augmented crop of an alignment; without augmentation the crop is the stored one."""

import json

import numpy as np
import pytest
import torch

from adhmr.body.codec import PoseCodec
from adhmr.config.data import AugmentConfig
from adhmr.config.generation import GenerateStage
from adhmr.data.randomness import RandomKey
from adhmr.data.shard_reader import ShardReader
from adhmr.preference.generate import run_stage as generate
from adhmr.training.run import run_stage
from adhmr.training.tasks.dpo import DpoTask
from adhmr.training.tasks.pairs import PairTransform
from tests.tiny import CROP


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
        winner = torch.from_numpy(item["x0"][:, 0])
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
