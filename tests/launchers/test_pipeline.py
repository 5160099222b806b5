"""Planning and running a chain of stages; the stages themselves are stood in for by a recorder."""

import json
from pathlib import Path

import pytest
import yaml

from adhmr.errors import AdhmrError
from launchers.pipeline import run_pipeline
from launchers.pipeline_plan import plan_pipeline

SYNTH = {"stage": "synth", "output": "x", "sets": [{"name": "synth-studio", "count": 5}]}
REPORT = {"stage": "report", "output": "x", "title": "t", "crop": {}, "pictures": 3}
READ = ("evaluation", "data")  # folders that are there


def stage(name: str, config: str = "report.yaml", **more) -> dict:
    return {"name": name, "config": config, **more}


CHAIN = [
    stage("data", "synth.yaml"),
    stage("left", after=["data"], values={"evaluation": "{output}/data/a", "crop.size": 64}),
    stage("right", after=["data"], for_each={"seed": [3, 4]}, values={"seed": "{seed}", "title": "seed {seed}"}),
    stage("end", after=["left", "right"], values={"runs": ["{output}/right-3", "{output}/right-4"]}),
]


@pytest.fixture
def write(tmp_path):
    def write(stages=CHAIN, **more) -> Path:
        (tmp_path / "synth.yaml").write_text(yaml.safe_dump(SYNTH))
        (tmp_path / "report.yaml").write_text(yaml.safe_dump(REPORT | {key: str(tmp_path) for key in READ}))
        file = tmp_path / "chain.yaml"
        file.write_text(yaml.safe_dump({"name": "chain", "output": str(tmp_path / "out"), "stages": stages, **more}))
        return file

    return write


def test_a_plan_is_in_order_with_values_filled_in(write, tmp_path):
    out = tmp_path / "out"
    stages = {one.name: one for one in plan_pipeline(write(), [])}
    assert list(stages) == ["data", "left", "right-3", "right-4", "end"]
    assert all(one.config.output == out / name for name, one in stages.items())
    assert stages["left"].config.evaluation == out / "data" / "a" and stages["left"].config.crop.size == 64
    assert stages["right-4"].config.seed == 4 and stages["right-4"].config.title == "seed 4"
    assert stages["end"].config.runs == [out / "right-3", out / "right-4"]
    assert [one.name for one in stages["end"].inputs] == ["left", "right-3", "right-4"]


def test_overrides_go_to_their_stage_and_output_to_all(write, tmp_path):
    stages = {one.name: one for one in plan_pipeline(write(), [f"output={tmp_path}/b", "right.pictures=9"])}
    assert [one.config.pictures for name, one in stages.items() if name != "data"] == [3, 9, 9, 3]
    assert stages["left"].config.evaluation == tmp_path / "b" / "data" / "a"


def test_a_fingerprint_covers_the_configuration_and_all_that_is_read(write):
    def fingerprints(*overrides):
        return {one.name: one.fingerprint for one in plan_pipeline(write(), list(overrides))}

    first = fingerprints()
    assert len(set(first.values())) == 5 and fingerprints() == first
    for override, expected in {
        "data.seed=1": {"data", "left", "right-3", "right-4", "end"},
        "left.pictures=1": {"left", "end"},
        "end.pictures=1": {"end"},
    }.items():
        other = fingerprints(override)
        assert {name for name in first if first[name] != other[name]} == expected, override


def test_done_stages_are_not_run_again(write, recorder, capsys):
    run_pipeline(write(), [])
    assert recorder.take() == ["data", "left", "right-3", "right-4", "end"]
    capsys.readouterr()
    run_pipeline(write(), [])
    assert recorder.take() == []
    printed = capsys.readouterr().out
    assert printed.count(": done (") == 5 and "all 5 stages are done" in printed


@pytest.mark.parametrize("place", ["out", "out/left"])
def test_a_file_where_a_folder_should_be_is_named(place, write, recorder, tmp_path):
    chain = write()
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("notes")
    with pytest.raises(AdhmrError, match=f"{place} is a file, where a folder of runs should be"):
        run_pipeline(chain, [])
    assert not recorder.ran and (tmp_path / place).read_text() == "notes"


def test_a_change_sets_aside_and_runs_what_depends_on_it(write, recorder, tmp_path, capsys):
    run_pipeline(write(), [])
    recorder.take()
    run_pipeline(write(), ["left.pictures=1"])
    assert recorder.take() == ["left", "end"]
    printed = " ".join(capsys.readouterr().out.split())
    assert "left: pictures changed; the old result is in" in printed
    assert "end: a stage that it reads changed; the old result is in" in printed
    out = tmp_path / "out"
    for name in ("left", "end"):  # never mixed: each result is of one run
        assert (out / name / "result").read_text() == (out / f"{name}.previous" / "result").read_text() == "made\n"
    assert not (out / "data.previous").exists()
    run_pipeline(write(), ["left.pictures=2"])  # the older result gives way
    assert recorder.take() == ["left", "end"]
    assert yaml.safe_load((out / "left.previous" / "config.yaml").read_text())["pictures"] == 1


def test_a_failed_stage_is_named_and_goes_on_in_its_folder(write, recorder, tmp_path):
    recorder.codes = {"right-3": 1}
    with pytest.raises(AdhmrError, match="stage right-3 ended with exit code 1"):
        run_pipeline(write(), [])
    assert recorder.take() == ["data", "left", "right-3"]
    recorder.codes = {}
    run_pipeline(write(), [])
    assert recorder.take() == ["right-3", "right-4", "end"]
    assert (tmp_path / "out" / "right-3" / "result").read_text() == "made\nmade\n"  # continued, not set aside
    assert not list((tmp_path / "out").glob("*.previous"))


def test_a_stage_that_saved_on_request_passes_its_exit_code_on(write, recorder):
    recorder.codes = {"left": 85}
    with pytest.raises(SystemExit) as leaving:
        run_pipeline(write(), [])
    assert leaving.value.code == 85 and recorder.take() == ["data", "left"]


def test_a_damaged_record_counts_as_not_done(write, recorder, tmp_path):
    run_pipeline(write(), [])
    recorder.take()
    record = tmp_path / "out" / "end" / "stage.json"
    assert json.loads(record.read_text())["state"] == "done"
    record.write_text("{")
    run_pipeline(write(), [])
    assert recorder.take() == ["end"]


@pytest.mark.parametrize(
    ("stages", "overrides", "message"),
    [
        (CHAIN, ["middle.seed=1"], "override middle.seed=1: no stage of that name; the stages are data, left, right"),
        (CHAIN, ["left"], "override left: expected stage.key=value"),
        (CHAIN, ["left.pictures"], "expected key=value"),
        (CHAIN, ["left.picturez=1"], "unknown key 'picturez'; did you mean 'pictures'"),
        ([stage("end", after=["data"]), CHAIN[0]], [], "stage end comes after data, which no earlier stage is called"),
        ([stage("one", values={"title": "{colour}"})], [], "'{colour}' has another placeholder than output"),
        ([stage("one", "missing.yaml")], [], "missing.yaml: cannot read this config file"),
        ([{"name": "one", "confg": "x"}], [], "unknown key 'stages.0.confg'"),
    ],
)
def test_mistakes_are_told_before_anything_runs(write, recorder, stages, overrides, message, tmp_path):
    with pytest.raises(AdhmrError) as error:
        run_pipeline(write(stages), overrides)
    assert message in str(error.value)
    assert not recorder.ran and not (tmp_path / "out").exists()


def test_two_stages_of_one_name_are_refused(write):
    with pytest.raises(AdhmrError, match="two stages are called data"):
        plan_pipeline(write([CHAIN[0], CHAIN[0]]), [])
