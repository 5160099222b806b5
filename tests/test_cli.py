"""What the command does with bad input: exit code 2, one line that says what to do, and no traceback. A mistake of each
sort goes through a real process; its variants run in this one."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from adhmr import cli
from adhmr.body.body_model import open_body_path
from adhmr.models.weights import load_model, load_weights
from tests.body.made_files import made_smplx
from tests.tiny import BASE, CROP, adhmr


def refused(process: subprocess.CompletedProcess[str]) -> str:
    """The one error line of a command that was refused."""
    assert process.returncode == 2, process
    lines = process.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), process.stderr
    assert "Traceback" not in process.stdout
    return lines[0]


@pytest.fixture
def here(monkeypatch, capsys):
    """The command in this process: without the seconds that importing torch takes, for what needs no process."""

    def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        line = ["adhmr", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", line)
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as leaving:
            code = leaving.code
        return subprocess.CompletedProcess(line, code, *capsys.readouterr())

    return command


def write_stage(folder: Path, **values) -> Path:
    path = folder / "stage.yaml"
    path.write_text(json.dumps(values))  # JSON is YAML
    return path


@pytest.fixture
def generate(tmp_path, tiny_weights, studio_set) -> dict:
    return {
        "stage": "generate",
        "output": str(tmp_path / "out"),
        "base": str(tiny_weights / "base.safetensors"),
        "sets": [{"path": str(studio_set), "rankings": ["random"]}],
        "crop": CROP,
    }


def test_a_wrong_key_is_named_with_the_nearest(tmp_path, generate):
    line = refused(adhmr("run", write_stage(tmp_path, **generate, hypothesis=3)))
    assert "stage.yaml: unknown key 'hypothesis'; did you mean 'hypotheses'" in line
    assert not (tmp_path / "out").exists()


def test_a_stage_can_be_checked_without_running(tmp_path, generate):
    process = adhmr("run", write_stage(tmp_path, **generate), "hypotheses=3", "--check")
    assert process.returncode == 0 and "a valid generate stage" in process.stdout
    assert not (tmp_path / "out").exists()


def test_missing_stage_file_and_pipeline_mistakes(tmp_path):
    assert "missing.yaml: cannot read" in refused(adhmr("run", tmp_path / "missing.yaml"))
    demo = Path(__file__).resolve().parents[1] / "configs" / "pipelines" / "demo.yaml"
    line = refused(adhmr("pipeline", demo, f"output={tmp_path / 'out'}", "alin.beta=3"))
    assert "no stage of that name; the stages are data, base, scorer" in line
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file(tmp_path, generate):
    (tmp_path / "out").touch()
    assert "cannot be made a folder" in refused(adhmr("run", write_stage(tmp_path, **generate)))


@pytest.mark.parametrize("problem", ["missing", "foreign", "other kind"])
def test_weights_that_do_not_serve(here, tmp_path, generate, tiny_weights, problem):
    path = tmp_path / "weights.safetensors"
    if problem == "foreign":
        path.write_bytes(b"a text and no tensors")
    elif problem == "other kind":
        shutil.copy(tiny_weights / "scorer.safetensors", path)
    command = adhmr if problem == "other kind" else here
    line = refused(command("run", write_stage(tmp_path, **{**generate, "base": str(path)})))
    expected = {
        "missing": "no such weight file",
        "foreign": "not a whole safetensors file",
        "other kind": "holds a model of kind 'scorer', expected 'base'",
    }
    assert f"{path}: {expected[problem]}" in line


@pytest.mark.parametrize("problem", ["no folder", "no index", "truncated"])
def test_data_that_does_not_serve(here, tmp_path, studio_set, problem):
    folder = tmp_path / "people"
    if problem != "no folder":
        shutil.copytree(studio_set, folder)
    if problem == "no index":
        (folder / "index.json").unlink()
    if problem == "truncated":
        shard = folder / "000001.tar"
        shard.write_bytes(shard.read_bytes()[:-5000])
    command = adhmr if problem == "no index" else here
    expected = {"no folder": "is not a folder", "no index": "has no index.json", "truncated": "000001.tar has"}
    assert expected[problem] in refused(command("data", "inspect", folder))


def test_training_on_a_truncated_shard_is_refused_before_it_begins(tmp_path, studio_set):
    folder = tmp_path / "people"
    shutil.copytree(studio_set, folder)
    shard = folder / "000002.tar"
    shard.write_bytes(shard.read_bytes()[:-1])
    values = {
        "stage": "base",
        "output": str(tmp_path / "out"),
        "data": {"sets": [{"path": str(folder)}], "crop": CROP, "workers": 1},
        "model": BASE,
        "train": {"steps": 2, "global_batch": 2},
        "optim": {},
    }
    line = refused(adhmr("run", write_stage(tmp_path, **values)))
    assert "000002.tar has" in line and "rerun its writer or copy it again" in line


def test_inspect_says_what_a_folder_holds(here, tmp_path, studio_set):
    process = here("data", "inspect", studio_set, "--count", "4", "--sheet", tmp_path / "sheet.jpg")
    assert process.returncode == 0, process.stderr
    assert "synthetic:synth-studio" in process.stdout and (tmp_path / "sheet.jpg").stat().st_size > 1000


def test_an_encoder_is_exported(here, tmp_path, tiny_weights):
    target = tmp_path / "encoder.safetensors"
    process = here("weights", "export-encoder", tiny_weights / "base.safetensors", target)
    assert process.returncode == 0, process.stderr
    base, _ = load_weights(tiny_weights / "base.safetensors")
    for name, tensor in load_model(target, "encoder").state_dict().items():
        assert (tensor == base[f"encoder.{name}"].half().float()).all(), name


def test_help_names_the_commands():
    process = adhmr("--help")
    assert process.returncode == 0
    for command in ("run", "pipeline", "data", "weights"):
        assert command in process.stdout


def test_body_file_is_described_or_refused_in_one_line(here, tmp_path):
    good = here("body", open_body_path())
    assert good.returncode == 0 and "7000 vertices" in good.stdout
    expressive = tmp_path / "SMPLX_NEUTRAL.npz"
    np.savez(expressive, **made_smplx())
    good = here("body", expressive)
    assert good.returncode == 0 and "body 'small-x', 60 vertices, 80 faces" in good.stdout
    foreign = tmp_path / "foreign.npz"
    np.savez(foreign, vertices=np.zeros((10, 3)))
    for file in (tmp_path / "missing.pkl", foreign):
        assert file.name in refused(here("body", file))
