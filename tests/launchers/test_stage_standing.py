"""What a changed setting, input or piece of code means for the folder of a stage, and what is said about it."""

import json
from pathlib import Path

import pytest
import yaml

from adhmr.errors import AdhmrError
from launchers import code_version, pipeline_local, pipeline_plan
from launchers.pipeline import run_pipeline
from launchers.pipeline_plan import plan_pipeline
from launchers.stage_record import read_record
from launchers.stage_standing import standing


@pytest.fixture
def chain(tmp_path, monkeypatch):
    """A pipeline of two stages that has run, the second on a weight file from outside."""
    monkeypatch.setattr(pipeline_local, "_run_stage", lambda config, lock: 0)
    (tmp_path / "synth.yaml").write_text(
        yaml.safe_dump({"stage": "synth", "output": "x", "sets": [{"name": "synth-studio", "count": 5}]})
    )
    (tmp_path / "report.yaml").write_text(
        yaml.safe_dump({"stage": "report", "output": "x", "title": "t", "evaluation": str(tmp_path), "crop": {}})
    )
    (tmp_path / "weights").write_bytes(b"1")
    compared = [{"name": "one", "weights": str(tmp_path / "weights")}]
    stages = [
        {"name": "data", "config": "synth.yaml"},
        {
            "name": "end",
            "config": "report.yaml",
            "after": ["data"],
            "values": {"data": "{output}/data/synth-studio-train", "compared": compared},
        },
    ]
    file = tmp_path / "chain.yaml"
    file.write_text(yaml.safe_dump({"name": "chain", "output": str(tmp_path / "out"), "stages": stages}))
    run_pipeline(file, [])
    return file


@pytest.fixture
def changed_code(monkeypatch):
    """Call it: from now on, the code of all data stages is another."""

    def change(module: str = "adhmr.data.synthetic.stage") -> None:
        def files(name):
            found = code_version.code_files(name)
            return {**found, "adhmr/data/synthetic/stage.py": "changed"} if name == module else found

        monkeypatch.setattr(pipeline_plan, "code_files", files)

    return change


def stand(file: Path, *overrides: str, accept: tuple[str, ...] = ()) -> dict:
    return {stage.name: standing(stage, accept) for stage in plan_pipeline(file, list(overrides))}


def test_unchanged_it_is_done(chain):
    assert [one.state for one in stand(chain).values()] == ["done", "done"]


def test_a_changed_setting_is_named(chain):
    found = stand(chain, "data.seed=1", "data.sets.0.count=6")
    assert found["data"].state == "other" and found["data"].changed == "seed, sets.0.count changed"
    assert found["end"].changed == "a stage that it reads changed" and not found["end"].only_code


def test_settings_without_influence_are_none(chain):
    assert [one.state for one in stand(chain, "data.threads=2").values()] == ["done", "done"]


def test_the_content_of_a_file_from_outside_counts(chain, tmp_path):
    (tmp_path / "weights").write_bytes(b"2")
    found = stand(chain)
    assert found["data"].state == "done" and found["end"].changed == f"the content of {tmp_path}/weights changed"
    (tmp_path / "weights").unlink()
    with pytest.raises(AdhmrError, match=r"end: compared.0.weights: .*/weights does not exist, and no stage makes it"):
        stand(chain)


def test_changed_code_is_named_and_can_be_accepted(chain, changed_code, capsys):
    changed_code()
    found = stand(chain)
    assert found["data"].changed == "the code changed (adhmr/data/synthetic/stage.py)" and found["data"].only_code
    assert found["end"].changed == "the code of a stage that it reads changed" and found["end"].only_code
    assert [one.state for one in stand(chain, accept=("data",)).values()] == ["done", "other"]
    assert [one.state for one in stand(chain, accept=("all",)).values()] == ["done", "done"]
    assert stand(chain, "data.seed=1", accept=("all",))["data"].state == "other"  # code alone, never settings

    run_pipeline(chain, [], dry_run=True)
    printed = capsys.readouterr().out
    assert (
        "the old result kept as data.previous: the code changed" in printed and "--accept-code data keeps it" in printed
    )
    assert [one.state for one in stand(chain).values()] == ["other", "other"]  # a dry run writes nothing

    stages = plan_pipeline(chain, [])
    former = read_record(stages[0].folder).fingerprint.split("-")[1]
    run_pipeline(chain, [], accept_code=["all"])
    assert [one.state for one in stand(chain).values()] == ["done", "done"]  # for good
    assert read_record(stages[0].folder).accepted == [former]
    assert not list(stages[0].folder.parent.glob("*.previous"))
    with pytest.raises(AdhmrError, match="--accept-code datta: no stage of that name; expected one of all, data, end"):
        run_pipeline(chain, [], accept_code=["datta"])


def test_another_code_without_acceptance_is_run_anew(chain, changed_code, capsys):
    changed_code()
    run_pipeline(chain, [])
    printed = capsys.readouterr().out
    assert "data: the code changed (adhmr/data/synthetic/stage.py); the old result is in" in printed
    assert "(--accept-code data would have kept it)" in printed
    assert len(list((chain.parent / "out").glob("*.previous"))) == 2


def test_a_folder_of_an_earlier_version_is_set_aside_with_a_line(chain, capsys):
    """Its stage.json has a fingerprint of one part and is half finished."""
    record = chain.parent / "out" / "data" / "stage.json"
    record.write_text(json.dumps({"state": "started", "fingerprint": "0123456789abcdef", "seconds": 0.0}))
    (record.parent / "half").write_text("")
    run_pipeline(chain, [])
    assert "data: it is of an earlier version of ADHMR; the old result is in" in capsys.readouterr().out
    assert (chain.parent / "out" / "data.previous" / "half").exists() and not (record.parent / "half").exists()


def test_what_a_stage_reads_must_come_before_it(chain):
    content = yaml.safe_load(chain.read_text())
    content["stages"][1]["after"] = []
    chain.write_text(yaml.safe_dump(content))
    with pytest.raises(AdhmrError, match=r"end reads .*/out/data/.* \(data\), which stage data makes: add data to its"):
        plan_pipeline(chain, [])


def test_two_commands_in_one_folder(chain, monkeypatch):
    from launchers import pipeline_lock

    monkeypatch.setattr(pipeline_lock, "PATIENCE", 0.2)
    with (
        pipeline_lock.pipeline_lock(chain.parent / "out"),
        pytest.raises(
            AdhmrError, match=r"another `adhmr pipeline`, or a stage that one started, works here .started as"
        ),
    ):
        run_pipeline(chain, [])
    run_pipeline(chain, [])
