"""The paper's recipes of alignment and evaluation: what one reads another writes; names promise switches."""

from pathlib import Path

import pytest
from pydantic import TypeAdapter

from adhmr.config.alignment import DpoStage
from adhmr.config.generation import GenerateStage
from adhmr.config.loading import load_config
from adhmr.config.stages import CleanStage, Stage

PAPER = Path(__file__).resolve().parents[2] / "configs" / "experiments" / "paper"
RUNS = "runs/paper/"


def recipe(name: str):
    return load_config(PAPER / f"{name}.yaml", [], TypeAdapter(Stage))


RECIPES = {file.stem: recipe(file.stem) for file in sorted(PAPER.glob("*.yaml"))}
ALIGNMENTS = {name: config for name, config in RECIPES.items() if isinstance(config, DpoStage)}
PUBLISHED = [name for name in ALIGNMENTS if not name.endswith("tuned")]  # the others are recommended here


def strings(value):
    """Every string below a configuration."""
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
    for item in values:
        if isinstance(item, dict | list):
            yield from strings(item)
        elif isinstance(item, str):
            yield item


@pytest.mark.parametrize("name", RECIPES)
def test_whatever_a_recipe_reads_of_the_runs_another_recipe_writes(name):
    made = {str(config.output) for config in RECIPES.values()}
    made |= {f"{path}/{file}.safetensors" for path in made for file in ("model", "model_raw")}
    for config in RECIPES.values():
        if isinstance(config, GenerateStage):
            made |= {f"{config.output}/{Path(s.path).name}-{ranking}" for s in config.sets for ranking in s.rankings}
        if isinstance(config, CleanStage):
            made |= {f"{config.output}/{Path(path).name}" for path in config.sets}
    read = [
        text for text in strings(RECIPES[name].model_dump(mode="json", exclude={"output"})) if text.startswith(RUNS)
    ]
    assert set(read) <= made
    assert str(RECIPES[name].output) == f"{RUNS}{name}"


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_pairs_and_features_are_of_the_model_that_is_aligned(name):
    config = ALIGNMENTS[name]
    own = config.base.parent
    for item in config.preferences:
        (generated,) = (
            c for c in RECIPES.values() if isinstance(c, GenerateStage) and c.output == Path(item.path).parent
        )
        assert generated.base == own / "model.safetensors"
        assert config.train_encoder or (config.base == generated.base and generated.features != "none")


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_alignment_has_the_published_rates_and_batches(name):
    config = ALIGNMENTS[name]
    assert (config.beta, config.seed, config.optim.lr, config.optim.clip_norm) == (100.0, 123, 5e-5, 1.0)
    assert (config.train.steps, config.train.global_batch, config.train.ema_decay) == (4750, 80, 0.9999)
    assert config.optim.milestones == [1000] and config.optim.gamma == 0.5
    assert config.train.steps * config.train.global_batch == 19 * 20_000
    shares = [item.weight for item in config.preferences]
    assert shares == ([0.5, 0.5] if "wild" in name else [1.0])


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_official_recipes_and_no_others_do_what_the_code_does(name):
    config, official = ALIGNMENTS[name], name.endswith("official")
    assert config.train_encoder is official and (config.mask == "labels") is official
    assert (config.base_ema is not None) is official and (config.augment is not None) is official
    assert ("truth" in str(config.preferences[0].path)) is official
    assert config.norm == "group" and config.noise == "shared"
    assert (config.objective == "kto") is name.startswith("kto")
    if official:
        lr = config.optim.lr
        assert lr * config.encoder_lr_scale == pytest.approx(1e-4)
        assert lr * config.encoder_head_lr_scale == pytest.approx(5e-4)


@pytest.mark.parametrize("benchmark", ["3dpw", "h36m"])
def test_evaluations_are_strict_but_for_the_official_ones(benchmark):
    strict, official = RECIPES[f"evaluate-{benchmark}"], RECIPES[f"evaluate-{benchmark}-official"]
    assert RECIPES[f"figure-{benchmark}"].crop == strict.crop
    (tested,) = (item for item in RECIPES[f"scorers-{benchmark}"].sets if item.path == strict.data)
    assert (tested.padding or RECIPES[f"scorers-{benchmark}"].crop.padding) == strict.crop.padding
    assert strict.protocol.title == benchmark and official.protocol.title == f"{benchmark}-official"
    assert (strict.protocol.candidates, strict.protocol.stride) == ("strict", 1)
    assert (official.protocol.candidates, official.protocol.stride) == ("official", 10)
    assert strict.crop == official.crop == RECIPES[f"pairs-studio-{benchmark}"].crop
    assert strict.hypotheses == official.hypotheses == [10, 100, 200]
