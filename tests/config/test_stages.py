"""Every configuration that is shipped is one that the program reads."""

from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter

from adhmr.config.alignment import DpoStage
from adhmr.config.entry_points import STAGES
from adhmr.config.loading import load_config, save_resolved
from adhmr.config.losses import NoiseConfig
from adhmr.config.model import BaseModelConfig, EncoderConfig, RegressorConfig
from adhmr.config.stages import Stage
from adhmr.errors import AdhmrError
from launchers.pipeline import plan_pipeline

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
STAGE_FILES = sorted([*CONFIGS.glob("stages/**/*.yaml"), *CONFIGS.glob("experiments/*/**/*.yaml")])
PIPELINE_FILES = sorted(CONFIGS.glob("pipelines/*.yaml"))


def named(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


@pytest.mark.parametrize("file", STAGE_FILES, ids=named)
def test_a_shipped_stage_is_read_and_reads_back_the_same(file, tmp_path):
    config = load_config(file, [], TypeAdapter(Stage))
    assert config.stage in STAGES
    save_resolved(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml", [], TypeAdapter(Stage)) == config


@pytest.mark.parametrize("file", PIPELINE_FILES, ids=named)
def test_every_stage_of_a_shipped_pipeline_is_read(file, tmp_path):
    stages = plan_pipeline(file, [f"output={tmp_path}"])
    assert len(stages) >= len(yaml.safe_load(file.read_text())["stages"])
    assert len({stage.config.output for stage in stages}) == len(stages)
    made = {stage.config.output for stage in stages}
    for stage in stages:
        assert stage.config.output == tmp_path / stage.name
        # Whatever a stage reads of this pipeline is written by a stage that it waits for.
        read = [
            part for part in tmp_values(stage.config.model_dump(mode="json", exclude={"output", "page"}), str(tmp_path))
        ]
        needed = {tmp_path / Path(part).relative_to(tmp_path).parts[0] for part in read}
        assert needed <= made - {stage.config.output} and needed <= {before.config.output for before in waited(stage)}


def waited(stage):
    for one in stage.inputs:
        yield one
        yield from waited(one)


def tmp_values(value, start: str):
    """Every string below a configuration that begins with `start`."""
    if isinstance(value, dict):
        value = list(value.values())
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, dict | list):
            yield from tmp_values(item, start)
        elif isinstance(item, str) and item.startswith(start):
            yield item


def test_there_are_shipped_configurations():
    assert len(STAGE_FILES) >= 9 and PIPELINE_FILES


@pytest.mark.parametrize(
    ("file", "model"),
    [
        ("tiny", BaseModelConfig),
        ("medium", BaseModelConfig),
        ("paper", BaseModelConfig),
        ("tiny-encoder", EncoderConfig),
        ("medium-encoder", EncoderConfig),
        ("medium-regressor", RegressorConfig),
    ],
)
def test_a_shipped_model_is_read(file, model):
    load_config(CONFIGS / "models" / f"{file}.yaml", [], model)


def test_every_stage_of_the_command_line_has_a_configuration():
    members = {
        member["properties"]["stage"]["const"]
        for member in TypeAdapter(Stage).json_schema()["$defs"].values()
        if "stage" in member.get("properties", {})
    }
    assert members == set(STAGES)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pairs_per_imag=2", "unknown key 'pairs_per_imag'; did you mean 'pairs_per_image'"),
        ("train.stepz=2", "unknown key 'train.stepz'; did you mean 'train.steps'"),
        ("beta=strong", "key 'beta': expected"),
        ("stage=dop", "did you mean 'dpo'"),
        ("norm=double", "'group' or 'single'"),
    ],
)
def test_mistakes_are_named_with_what_was_meant(override, message):
    with pytest.raises(AdhmrError) as error:
        load_config(CONFIGS / "stages" / "demo" / "align.yaml", [override], TypeAdapter(Stage))
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["base", "scorer"])
def test_crops_of_another_size_than_the_models_are_refused(name):
    with pytest.raises(AdhmrError, match=r"data.crop.size is 160, model.crop_size is \d+: they must be equal"):
        load_config(CONFIGS / "stages" / "demo" / f"{name}.yaml", ["data.crop.size=160"], TypeAdapter(Stage))


@pytest.mark.parametrize("name", ["base", "scorer"])
def test_a_part_of_a_loss_that_counts_against_it_is_refused(name):
    with pytest.raises(AdhmrError, match=r"key .loss.depth.*greater than or equal to 0"):
        load_config(CONFIGS / "stages" / "demo" / f"{name}.yaml", ["loss.depth=-1"], TypeAdapter(Stage))


def test_defaults_are_the_papers():
    noise = NoiseConfig()
    assert (noise.kind, noise.pose, noise.root, noise.betas) == ("fixed", 0.05, 0.02, 0.05)
    fields = DpoStage.model_fields
    assert fields["beta"].default == 100.0 and fields["norm"].default == "group"
