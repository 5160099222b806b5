"""Variables of a pipeline, a part of it, and going on after a failure; the stages are stood in for by a recorder."""

from pathlib import Path

import pytest
import yaml

from adhmr.errors import AdhmrError
from launchers.pipeline import run_pipeline
from launchers.pipeline_plan import plan_pipeline

SYNTH = {"stage": "synth", "output": "x", "sets": [{"name": "synth-studio", "count": 5}]}
REPORT = {"stage": "report", "output": "x", "title": "t", "crop": {}, "pictures": 3}
VARIABLES = {"recipes": "small", "target": "bench", "seeds": [3, 4], "pictures": 5}


def stages() -> list[dict]:
    read = {"evaluation": "{output}/data/{target}", "data": "{output}/data/{target}"}
    report = {"config": "{recipes}/report.yaml", "after": ["data"]}
    return [
        {"name": "data", "config": "{recipes}/synth.yaml"},
        {"name": "left", **report, "values": {**read, "pictures": "{pictures}"}},
        {"name": "right", **report, "for_each": {"seed": "{seeds}"}, "values": {**read, "seed": "{seed}"}},
        {"name": "end", **report, "after": ["right"], "values": {**read, "title": "of {recipes}"}},
    ]


@pytest.fixture
def write(tmp_path):
    def write(**change) -> Path:
        for folder in ("small", "large"):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / "synth.yaml").write_text(yaml.safe_dump(SYNTH))
            (tmp_path / folder / "report.yaml").write_text(yaml.safe_dump(REPORT))
        file = tmp_path / "chain.yaml"
        content = {"name": "chain", "output": f"{tmp_path}/{{recipes}}-out", "variables": VARIABLES, "stages": stages()}
        file.write_text(yaml.safe_dump(content | change))
        return file

    return write


def test_variables_are_filled_in_everywhere(write, tmp_path):
    planned = {one.name: one for one in plan_pipeline(write(), [])}
    assert list(planned) == ["data", "left", "right-3", "right-4", "end"]
    assert planned["left"].folder == tmp_path / "small-out" / "left"
    assert planned["left"].config.pictures == 5 and planned["right-4"].config.seed == 4
    assert planned["left"].config.evaluation == tmp_path / "small-out" / "data" / "bench"
    assert planned["end"].config.title == "of small"


def test_variables_take_other_values_on_the_command_line(write, tmp_path):
    planned = {one.name: one for one in plan_pipeline(write(), ["recipes=large", "seeds=[7]", "left.seed=2"])}
    assert list(planned) == ["data", "left", "right-7", "end"]
    assert planned["end"].folder == tmp_path / "large-out" / "end" and planned["end"].config.title == "of large"
    assert planned["left"].config.seed == 2
    moved = plan_pipeline(write(), ["recipes=large", f"output={tmp_path}/moved"])
    assert moved[0].folder == tmp_path / "moved" / "data"


def test_variables_count_through_what_they_change(write, tmp_path):
    def fingerprints(*overrides):
        planned = plan_pipeline(write(), [f"output={tmp_path}/out", *overrides])
        return {one.name: one.fingerprint for one in planned}

    first = fingerprints()
    same_files = fingerprints("recipes=large")  # its stage files are the same; a title has the name in it
    assert {name for name in first if first[name] != same_files[name]} == {"end"}
    other = fingerprints("pictures=6")
    assert {name for name in first if first[name] != other[name]} == {"left"}
    assert first.items() <= fingerprints("seeds=[3, 4, 5]").items() | {("end", first["end"])}


@pytest.mark.parametrize(
    ("change", "overrides", "message"),
    [
        (
            {},
            ["recipe=large"],
            "override recipe=large: no stage of that name; the stages are data, left, right, end, the",
        ),
        ({}, ["variables.recipe=large"], "no stage of that name"),
        ({}, ["seeds=3"], "stage right: for_each.seed is 3; expected a list"),
        ({}, ["recipes=none"], "none/synth.yaml: cannot read this config file"),
        ({"output": "{there}"}, [], "output: '{there}' has another placeholder than pictures, recipes, seeds, target"),
        ({"variables": {}, "output": "{there}"}, [], "than those of `variables`, of which there are none"),
        ({"variables": {**VARIABLES, "left": 1}}, [], "variables: left is the name of a stage already"),
        ({"variables": {**VARIABLES, "seed": 1}}, [], "variables: seed is in for_each of right already"),
        ({"variables": {**VARIABLES, "output": 1}}, [], "variables: output is a key of a pipeline already"),
        ({"variables": {**VARIABLES, "a-b": 1}}, [], "variables: 'a-b' is no name"),
    ],
)
def test_mistakes_in_variables_are_told(write, change, overrides, message):
    with pytest.raises(AdhmrError) as error:
        plan_pipeline(write(**change), overrides)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (["left"], ["data", "left"]),
        (["right"], ["data", "right-3", "right-4"]),
        (["right-4", "left"], ["data", "left", "right-4"]),
        (["end"], ["data", "right-3", "right-4", "end"]),
    ],
)
def test_only_a_part_is_run(write, recorder, wanted, expected):
    run_pipeline(write(), [], wanted=wanted)
    assert recorder.take() == expected
    run_pipeline(write(), [])
    assert set(recorder.take()) == {"data", "left", "right-3", "right-4", "end"} - set(expected)


def test_what_is_left_out_need_not_find_its_files(write, recorder, tmp_path):
    alone = {"name": "alone", "config": "small/report.yaml", "values": dict.fromkeys(("evaluation", "data"), "nowhere")}
    file = write(stages=[*stages(), alone])
    with pytest.raises(AdhmrError, match=r"alone: .*nowhere does not exist"):
        run_pipeline(file, [])
    run_pipeline(file, [], wanted=["left"])
    assert recorder.take() == ["data", "left"]
    with pytest.raises(AdhmrError, match="--for lefft: no stage of that name; expected one of data, left, right, end"):
        run_pipeline(file, [], wanted=["lefft"])
    with pytest.raises(AdhmrError, match="--accept-code right: no stage of that name among those chosen with --for"):
        run_pipeline(file, [], wanted=["left"], accept_code=["right"])


def test_a_dry_run_of_a_part(write, recorder, tmp_path, capsys):
    run_pipeline(write(), [], wanted=["left"], dry_run=True)
    assert capsys.readouterr().out.splitlines() == ["[1/2] data: would run", "[2/2] left: would run"]
    assert not (tmp_path / "small-out").exists()


def test_what_does_not_need_a_failed_stage_is_run(write, recorder, capsys):
    recorder.codes = {"right-3": 1}
    with pytest.raises(AdhmrError) as error:
        run_pipeline(write(), [], keep_going=True)
    assert error.value.exit_code == 2
    assert "2 of 5 stages are not done (right-3: exit code 1; end: needs right-3); the same" in str(error.value)
    assert recorder.take() == ["data", "left", "right-3", "right-4"]
    assert "[5/5] end: not run, it needs right-3" in capsys.readouterr().out
    recorder.codes = {}
    run_pipeline(write(), [], keep_going=True)
    assert recorder.take() == ["right-3", "end"]


def test_a_request_to_stop_ends_it_all(write, recorder):
    recorder.codes = {"left": 85}
    with pytest.raises(SystemExit) as leaving:
        run_pipeline(write(), [], keep_going=True)
    assert leaving.value.code == 85 and recorder.take() == ["data", "left"]


def test_named_cases_bring_their_values(write):
    chosen = stages()
    chosen[2]["for_each"] = {"case": {"few": {"pictures": 2}, "many": {"pictures": 9, "title": "case {case}"}}}
    chosen[2]["values"].pop("seed")
    planned = {one.name: one.config for one in plan_pipeline(write(stages=chosen), [])}
    assert [name for name in planned if name.startswith("right")] == ["right-few", "right-many"]
    assert (planned["right-few"].pictures, planned["right-few"].title) == (2, "t")
    assert (planned["right-many"].pictures, planned["right-many"].title) == (9, "case many")


def test_an_item_of_a_list_for_each_value(write):
    chosen = stages()
    item = {"name": "r-{seed}", "group": "right", "weights": "{output}/right-{seed}/model.safetensors"}
    chosen[3]["values"]["compared"] = [
        {"name": "base", "weights": "{output}/data/b"},
        {"for_each": {"seed": "{seeds}"}, "item": item},
    ]
    compared = plan_pipeline(write(stages=chosen), [])[-1].config.compared
    assert [one.name for one in compared] == ["base", "r-3", "r-4"]
    assert compared[2].weights.parent.name == "right-4"
    chosen[3]["values"]["compared"][1]["for_each"] = {"seed": 3}
    with pytest.raises(AdhmrError, match=r"for_each of an item is .*expected lists"):
        plan_pipeline(write(stages=chosen), [])
