"""The paper's recipes of base models, scorers, fine-tuning and cleaning: the numbers that paper and code give."""

from pathlib import Path

import pytest
from pydantic import TypeAdapter

from adhmr.config.loading import load_config
from adhmr.config.stages import Stage

PAPER = Path(__file__).resolve().parents[2] / "configs" / "experiments" / "paper"


def recipe(name: str):
    return load_config(PAPER / f"{name}.yaml", [], TypeAdapter(Stage))


def by_set(name: str, field: str) -> dict:
    return {Path(item.path).name.removesuffix("-train"): getattr(item, field) for item in recipe(name).data.sets}


@pytest.mark.parametrize(
    ("name", "weights", "depth", "everything"),
    [
        ("base-h36m", {"h36m": 0.4, "coco": 0.2, "3dhp": 0.2, "mpii": 0.1, "up3d": 0.1}, {"coco", "mpii"}, {"h36m"}),
        (
            "base-3dpw",
            {"h36m": 0.35, "coco": 0.2, "3dhp": 0.15, "3dpw": 0.2, "mpii": 0.05, "up3d": 0.05},
            set(),
            {"h36m", "3dpw"},
        ),
        (
            "base-wild",
            {"h36m": 0.3, "coco": 0.15, "3dhp": 0.1, "3dpw": 0.15, "mpii": 0.05, "up3d": 0.05, "surreal": 0.2},
            {"surreal"},
            {"h36m", "3dpw"},
        ),
    ],
)
def test_mixtures_and_labels_of_the_base_stages(name, weights, depth, everything):
    assert by_set(name, "weight") == weights and sum(weights.values()) == pytest.approx(1)
    labels = by_set(name, "labels")
    assert {one for one, chosen in labels.items() if chosen is None} == everything
    assert {one for one, chosen in labels.items() if chosen and "depth" in chosen} == depth
    assert {one for one, chosen in labels.items() if chosen and "betas" in chosen} == depth & {"surreal"}
    assert not any({"leaves", "twists"} & set(chosen or []) for chosen in labels.values())
    assert {one for one, padding in by_set(name, "padding").items() if padding == 1.2} == {"h36m"}
    occluded = {one for one, share in by_set(name, "occlusion_probability").items() if share == 0.8}
    assert occluded == everything and recipe(name).data.augment.occlusion_probability == 0


@pytest.mark.parametrize("name", ["base-h36m", "base-h36m-30", "base-3dpw", "base-wild"])
def test_rates_and_weights_of_the_base_stages(name):
    config = recipe(name)
    first = name.startswith("base-h36m")
    rate = config.optim.lr
    assert rate == (5e-4 if first else 2.5e-4)
    assert (config.encoder_lr_scale, config.encoder_head_lr_scale) == (0.4, 2.0)  # 2e-4 and 1e-3 at 5e-4
    assert (config.loss.betas, config.loss.joints2d) == (10, {"base-3dpw": 40, "base-wild": 20}.get(name, 10))
    assert (config.train.global_batch, config.train.micro_batch, config.train.ema_decay) == (320, 160, 0.9999)
    epochs = {"base-h36m": 50, "base-h36m-30": 30, "base-3dpw": 5, "base-wild": 2}[name]
    assert config.train.steps == epochs * 1950
    assert (config.model is None) is not first and (config.base is None) is first
    if first:
        assert [step / 1950 for step in config.optim.milestones] == [20, 30, 40] and config.optim.gamma == 0.5


@pytest.mark.parametrize("name", ["sft-3dpw", "sft-h36m", "sft-wild", "sft-scorer-data"])
def test_supervised_fine_tuning_differs_from_the_alignment_in_its_loss_alone(name):
    config, alignment = recipe(name), recipe("dpo-3dpw")
    assert (config.optim, config.train, config.seed) == (alignment.optim, alignment.train, alignment.seed)
    rate = config.optim.lr
    assert rate * config.encoder_lr_scale == pytest.approx(1e-4)
    assert rate * config.encoder_head_lr_scale == pytest.approx(5e-4)
    assert set(by_set(name, "labels").values()) == {None}


@pytest.mark.parametrize("name", ["scorer", "scorer-calibrated", "scorer-p", "scorer-2d"])
def test_scorers_differ_in_what_their_name_says(name):
    config, paper = recipe(name), recipe("scorer")
    variant = {"scorer-p": "pose6d", "scorer-2d": "2d"}.get(name, "uvd")
    assert config.model == paper.model.model_copy(update={"variant": variant})
    assert config.loss.calibration == (400 if name == "scorer-calibrated" else 0)
    same = {"output", "model", "loss"}
    assert config.model_dump(exclude=same) == paper.model_dump(exclude=same)


def test_the_scorers_recipe_is_the_released_codes():
    config = recipe("scorer")
    noise = config.noise
    assert (noise.pose, noise.root, noise.betas, noise.translation, config.hypotheses) == (0.05, 0.02, 0.05, 0.0, 15)
    assert config.freeze_encoder and config.encoder_lr_scale == 0.02 and config.train.ema_decay is None
    assert (config.model.crop_shape, config.data.augment.scale) == ((512, 384), 0.25)
    encoder = config.model.encoder
    assert encoder.legacy_patch_padding and encoder.legacy_unit_range and encoder.legacy_nearest_resize
    assert set(by_set("scorer", "weight").values()) == {1.0} and len(config.data.sets) == 5
    assert config.train.steps == pytest.approx(25 * 100_000 / 64, abs=1)
    assert by_set("scorenet", "weight") == by_set("scorer", "weight")
    assert recipe("scorenet").model.variant == "uvd_twist" and not recipe("scorenet").freeze_encoder


def test_scorers_are_tested_on_the_noise_that_they_learn_from_and_the_paper_tests_on():
    for benchmark in ("3dpw", "h36m"):
        tested = recipe(f"scorers-{benchmark}")
        assert tested.noise == {"paper": recipe("scorer").noise}
        assert [item.name for item in tested.sets][:2] == ["GTA-Human", "DNA-Rendering"]
        assert not {item.path for item in tested.sets} & {item.path for item in recipe("scorer").data.sets}


def test_cleaning_is_the_papers():
    config = recipe("clean")
    assert config.threshold == 0.6 and config.percentile is None
    assert [Path(path).name for path in config.sets] == ["coco-train", "mpii-train", "h36m-train", "3dhp-train"]
    assert config.scorer.parent == recipe("scorer-calibrated").output


def test_both_regressors_of_the_cleaning_differ_in_their_data_alone():
    every, cleaned = recipe("regressor-all"), recipe("regressor-cleaned")
    ignored = {"output": True, "data": {"sets": {"__all__": {"path"}}}}
    assert every.model_dump(exclude=ignored) == cleaned.model_dump(exclude=ignored)
    assert [item.path for item in every.data.sets] == [
        path for name in ("coco", "mpii", "h36m", "3dhp") for path in recipe("clean").sets if name in path
    ]
    tested = recipe("regressors")
    assert [item.weights.parent for item in tested.models] == [every.output, cleaned.output]
    assert [item.protocol.title for item in tested.sets] == ["3dpw", "h36m"]
