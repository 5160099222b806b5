"""A pipeline that writes elsewhere than its stage files: what these read of each other follows, nothing else does."""

from pathlib import Path

import yaml

from launchers.pipeline_plan import plan_pipeline

FILES = {
    "made": {"stage": "synth", "output": "{here}/recipe/made", "sets": [{"name": "synth-studio", "count": 5}]},
    "read": {
        "stage": "clean",
        "output": "{here}/recipe/read",
        "scorer": "{here}/recipe/before/model.safetensors",  # no stage of the pipeline
        "sets": ["{here}/recipe/made/synth-studio-train", "{here}/other/set"],
        "threshold": 0.6,
    },
}


def planned(here: Path, *overrides: str, **values):
    for name, content in FILES.items():
        (here / f"{name}.yaml").write_text(yaml.safe_dump(content).replace("{here}", str(here)))
    for folder in ("recipe/before/model.safetensors", "other/set", "mine"):
        (here / folder).mkdir(parents=True, exist_ok=True)
    stages = [
        {"name": "made", "config": "made.yaml"},
        {"name": "read", "config": "read.yaml", "after": ["made"], "values": values},
    ]
    file = here / "pipeline.yaml"
    file.write_text(yaml.safe_dump({"name": "p", "output": str(here / "out"), "stages": stages}))
    return plan_pipeline(file, list(overrides))[1].config


def test_what_a_stage_of_the_pipeline_makes_is_read_where_it_is_made(tmp_path):
    config = planned(tmp_path)
    assert config.sets == [f"{tmp_path}/out/made/synth-studio-train", f"{tmp_path}/other/set"]
    assert config.scorer == tmp_path / "recipe" / "before" / "model.safetensors"
    there = planned(tmp_path, f"output={tmp_path}/recipe")
    assert there.sets[0] == f"{tmp_path}/recipe/made/synth-studio-train"


def test_what_was_chosen_stays(tmp_path):
    (tmp_path / "recipe" / "made" / "set").mkdir(parents=True)
    chosen = f"{tmp_path}/recipe/made/set"
    assert planned(tmp_path, **{"sets.1": chosen}).sets == [f"{tmp_path}/out/made/synth-studio-train", chosen]
    assert planned(tmp_path, f"read.sets=[{tmp_path}/mine, {chosen}]").sets == [f"{tmp_path}/mine", chosen]
