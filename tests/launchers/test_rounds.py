"""Iterated rounds: how a pipeline with `rounds` is planned, and two tiny ones run through the real command."""

import json
from pathlib import Path

import pytest
import yaml

from adhmr.errors import AdhmrError
from launchers.pipeline_plan import plan_pipeline
from tests.tiny import BASE, CROP, REPOSITORY, SCORER, adhmr

ROUNDS = REPOSITORY / "configs" / "pipelines" / "rounds.yaml"


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


def test_each_round_starts_from_the_model_of_the_former(tmp_path):
    stages = {one.name: one for one in plan_pipeline(ROUNDS, [f"output={tmp_path}"])}
    assert list(stages) == [
        *("data", "base", "scorer"),
        *(f"{name}-r{number}" for number in (1, 2, 3) for name in ("preferences", "align")),
        *("evaluate", "report"),
    ]

    def inputs(name):
        return [one.name for one in stages[name].inputs]

    assert inputs("preferences-r1") == ["base", "scorer"] and inputs("preferences-r2") == ["base", "scorer", "align-r1"]
    assert inputs("align-r3") == ["preferences-r3"] and inputs("evaluate") == ["align-r1", "align-r2", "align-r3"]
    for name in ("preferences", "align"):
        starts = [stages[f"{name}-r{number}"].config.base for number in (1, 2, 3)]
        assert starts == [tmp_path / folder / "model.safetensors" for folder in ("base", "align-r1", "align-r2")]
        assert [stages[f"{name}-r{number}"].config.seed for number in (1, 2, 3)] == [1, 2, 3]
    assert [stages[f"align-r{number}"].config.reference_is_base for number in (1, 2, 3)] == [True, True, True]
    assert [one.name for one in stages["evaluate"].config.models] == ["base", "round 1", "round 2", "round 3"]
    assert stages["report"].config.runs[-1] == tmp_path / "align-r3"


def test_the_reference_is_moved_or_kept(tmp_path):
    first = tmp_path / "base" / "model.safetensors"
    kept = plan_pipeline(ROUNDS, [f"output={tmp_path}", f"align.reference={first}"])
    aligned = [one.config for one in kept if one.name.startswith("align-")]
    assert [config.reference for config in aligned] == [first] * 3
    assert [config.reference_is_base for config in aligned] == [True, False, False]


def test_another_round_leaves_the_former_ones_as_they_are(tmp_path):
    def fingerprints(*overrides):
        return {one.name: one.fingerprint for one in plan_pipeline(ROUNDS, [f"output={tmp_path}", *overrides])}

    two, three = fingerprints("rounds=2"), fingerprints("rounds=3")
    assert {name for name in two if two[name] != three[name]} == {"evaluate", "report"}
    assert set(three) - set(two) == {"preferences-r3", "align-r3"}
    changed = fingerprints("align.beta=50")
    assert {name for name in three if three[name] == changed[name]} == {"data", "base", "scorer", "preferences-r1"}


SYNTH = {"stage": "synth", "output": "x", "sets": [{"name": "synth-studio", "count": 5}]}
INSIDE = {"name": "one", "config": "synth.yaml", "each_round": True}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": [INSIDE]}, "there is each_round: true, but no rounds"),
        ({"rounds": 2, "stages": [{"name": "one", "config": "synth.yaml"}]}, "there is rounds, but no stage with"),
        (
            {"rounds": 2, "stages": [INSIDE, {"name": "apart", "config": "synth.yaml"}, {**INSIDE, "name": "two"}]},
            "must stand together",
        ),
        ({"rounds": 2, "stages": [{**INSIDE, "after_former": ["data"]}]}, "after_former names data, which no stage"),
        (
            {"rounds": 2, "stages": [INSIDE, {"name": "end", "config": "synth.yaml", "after_former": ["one"]}]},
            "stage end: after_former is for stages with each_round: true",
        ),
        (
            {"rounds": 2, "stages": [{**INSIDE, "values": {"seed": "{model}"}}]},
            "'{model}' has another placeholder than",
        ),
        ({"rounds": 2, "stages": [INSIDE, {"name": "one-r2", "config": "synth.yaml"}]}, "are both called one-r2"),
        ({"rounds": 0, "stages": [INSIDE]}, "rounds"),
    ],
)
def test_mistakes_are_told(tmp_path, change, message):
    (tmp_path / "synth.yaml").write_text(yaml.safe_dump(SYNTH))
    file = tmp_path / "pipe.yaml"
    file.write_text(yaml.safe_dump({"name": "x", "output": str(tmp_path / "out"), **change}))
    with pytest.raises(AdhmrError) as error:
        plan_pipeline(file, [])
    assert message in str(error.value)


@pytest.mark.slow
def test_two_rounds_run(tmp_path, tiny_weights):
    """The example itself, as small as it gets; a third round later runs the third alone."""
    output = tmp_path / "out"
    train = {"steps": 2, "global_batch": 4, "log_every": 1, "save_every": 2}
    sets = [("studio", "train", 12), ("game", "train", 4), ("wild", "train", 12), ("bench", "test", 6)]
    changes = {
        "output": str(output),
        "data.sets": [{"name": f"synth-{name}", "split": split, "count": count} for name, split, count in sets],
        "data.image_size": 64,
        "data.processes": 1,
        "base.model": BASE,
        "scorer.model": SCORER,
        "scorer.hypotheses": 4,
        "scorer.sampled.count": 2,
        "preferences.hypotheses": 4,
        "preferences.pairs": 2,
        "preferences.images_per_batch": 6,
        "align.workers": 0,
        "align.train": train,
        "evaluate.hypotheses": [2],
        "evaluate.limit": 4,
        "report.pictures": 1,
    }
    for name in ("base", "scorer"):
        changes |= {f"{name}.encoder_weights": str(tiny_weights / "encoder.safetensors"), f"{name}.data.workers": 0}
        changes |= {f"{name}.data.crop": CROP, f"{name}.train": train}
    changes |= {f"{name}.crop": CROP for name in ("preferences", "evaluate", "report")}
    overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items()]

    ran = adhmr("pipeline", ROUNDS, *overrides, "rounds=2")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "all 9 stages are done" in ran.stdout
    models = [output / name / "model.safetensors" for name in ("base", "align-r1", "align-r2")]
    assert len({path.read_bytes() for path in models}) == 3
    preferences = [next((output / f"preferences-r{number}").glob("synth-wild*/*.tar")) for number in (1, 2)]
    assert preferences[0].read_bytes() != preferences[1].read_bytes()
    tables = json.loads((output / "evaluate" / "figures.json").read_text())
    assert "round 2" in json.dumps(tables)

    ran = adhmr("pipeline", ROUNDS, *overrides, "rounds=3", "--dry-run", "--accept-code=all")
    lines = {line.split("] ")[1].split(":")[0]: line for line in ran.stdout.splitlines()}
    assert [name for name, line in lines.items() if ": done (" not in line] == [
        *("preferences-r3", "align-r3", "evaluate", "report")
    ]
    assert "models" in lines["evaluate"] and Path(output / "evaluate").exists()
