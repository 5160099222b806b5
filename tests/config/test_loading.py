"""Reading configs: extends, overrides, unions, and the line a user sees for each mistake."""

from typing import Annotated, Literal

import pytest
import yaml
from pydantic import Field, TypeAdapter, model_validator

from adhmr.config.base import StrictModel
from adhmr.config.loading import load_config, save_resolved
from adhmr.errors import AdhmrError


class DataSet(StrictModel):
    path: str
    weight: float = 1.0


class Optimizer(StrictModel):
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Literal["constant", "cosine"] = "constant"


class BaseStage(StrictModel):
    stage: Literal["base"]
    steps: int
    optim: Optimizer = Optimizer()
    base: DataSet | None = None  # a key named like a union tag
    sets: list[DataSet] = Field(default_factory=list)
    noise: dict[str, Optimizer] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> "BaseStage":
        if self.steps == 13:
            raise ValueError("13 steps bring bad luck; use another number")
        return self


class AlignStage(StrictModel):
    stage: Literal["dpo"]
    beta: float = 100.0


Stage = Annotated[BaseStage | AlignStage, Field(discriminator="stage")]


@pytest.fixture
def stage_file(tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "optim.yaml").write_text(
        "optim: {lr: 1e-4, schedule: cosine}\nsets: [{path: a}, {path: b}]\n"
    )
    (tmp_path / "stage.yaml").write_text(
        "extends: shared/optim.yaml\nstage: base\nsteps: 5\noptim: {lr: 2e-4}\nsets: [{path: c}]\n"
    )
    return tmp_path / "stage.yaml"


def test_extends_merges_mappings_and_replaces_lists(stage_file):
    config = load_config(stage_file, [], BaseStage)
    assert config.optim == Optimizer(lr=2e-4, schedule="cosine")
    assert [data_set.path for data_set in config.sets] == ["c"]


def test_extends_takes_a_list_whose_later_entries_win_and_works_inside_a_mapping(tmp_path):
    (tmp_path / "one.yaml").write_text("{lr: 1.0, schedule: cosine}")
    (tmp_path / "two.yaml").write_text("lr: 2.0")
    (tmp_path / "stage.yaml").write_text("stage: base\nsteps: 1\noptim: {extends: [one.yaml, two.yaml]}\n")
    assert load_config(tmp_path / "stage.yaml", [], BaseStage).optim == Optimizer(lr=2.0, schedule="cosine")


def test_overrides(stage_file):
    overrides = ["sets.0.weight=2", "optim.lr=1e-5", "base.path=x", "optim.betas=[0.5, 0.6]", "noise.low.lr=3"]
    config = load_config(stage_file, overrides, Stage)
    assert config.sets == [DataSet(path="c", weight=2.0)]
    assert config.optim.lr == 1e-5 and config.optim.betas == (0.5, 0.6)
    assert config.base == DataSet(path="x")
    assert config.noise == {"low": Optimizer(lr=3.0)}


def test_union_by_stage_also_as_adapter(stage_file, tmp_path):
    assert isinstance(load_config(stage_file, [], TypeAdapter(Stage)), BaseStage)
    (tmp_path / "dpo.yaml").write_text("stage: dpo")
    assert load_config(tmp_path / "dpo.yaml", ["beta=5"], Stage) == AlignStage(stage="dpo", beta=5.0)


def test_resolved_config_reads_back_equal(stage_file, tmp_path):
    config = load_config(stage_file, ["base.path=x"], Stage)
    save_resolved(config, tmp_path / "run" / "config.yaml")
    assert load_config(tmp_path / "run" / "config.yaml", [], Stage) == config
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert written["optim"]["betas"] == [0.9, 0.999]  # defaults are written too
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.lrr=1", ["unknown key 'optim.lrr'", "did you mean 'optim.lr'?"]),
        ("lr=1", ["unknown key 'lr'", "did you mean 'optim.lr'?"]),
        ("zzz=1", ["unknown key 'zzz'", "valid names here: stage, steps, optim"]),
        ("sets.0.wait=1", ["unknown key 'sets.0.wait'", "did you mean 'sets.0.weight'?"]),
        ("base={pth: x}", ["unknown key 'base.pth'", "did you mean 'base.path'?", "(and 1 more)"]),
        ("noise.low.lrr=1", ["unknown key 'noise.low.lrr'", "did you mean 'noise.low.lr'?"]),
        ("steps=many", ["key 'steps': expected integer, got 'many'"]),
        ("steps=2.5", ["key 'steps': expected integer, got 2.5"]),
        ("sets=3", ["key 'sets': expected list, got 3"]),
        ("optim.schedule=cos", ["key 'optim.schedule': expected 'constant' or 'cosine', got 'cos'"]),
        ("stage=dpp", ["key 'stage': expected one of 'base', 'dpo', got 'dpp'", "did you mean 'dpo'?"]),
        ("steps=13", ["13 steps bring bad luck"]),
        ("sets.1.weight=2", ["'sets' is a list of 1", "got '1'"]),
        ("steps.x=2", ["'steps' is a plain value"]),
        ("steps", ["expected key=value"]),
        ("a..b=1", ["expected key=value"]),
        ("base={", ["not valid YAML"]),
    ],
)
def test_bad_override_is_one_line_that_names_it(stage_file, override, words):
    with pytest.raises(AdhmrError) as error:
        load_config(stage_file, [override], Stage)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    if override != "steps=13":  # a rule over the whole config has no single key
        assert message.startswith(f"override '{override}'")


def test_error_names_the_file_that_set_the_key(stage_file):
    parent = stage_file.parent / "shared" / "optim.yaml"
    parent.write_text("optim: {lr: fast}\n")
    stage_file.write_text("extends: shared/optim.yaml\nstage: base\nsteps: 5\n")
    with pytest.raises(AdhmrError, match=r"optim\.yaml: key 'optim.lr': expected number, got 'fast'"):
        load_config(stage_file, [], Stage)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stage: base\n", "key 'steps' is required and missing"),
        ("steps: 1\n", "key 'stage' is required and missing"),
        ("extends: stage.yaml\n", "goes round in a circle"),
        ("extends: nowhere.yaml\n", "cannot read this config file .extended by"),
        ("extends: 3\n", "expected a file name or a list"),
        ("- 1\n", "expected a mapping"),
        ("steps: [\n", "not valid YAML"),
        ("steps: 1\nsteps: 2\n", "key 'steps' is written twice"),
    ],
)
def test_bad_file(stage_file, text, words):
    stage_file.write_text(text)
    with pytest.raises(AdhmrError, match=words) as error:
        load_config(stage_file, [], Stage)
    assert "\n" not in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(AdhmrError, match=r"none\.yaml: cannot read this config file: No such file"):
        load_config(tmp_path / "none.yaml", [], Stage)
