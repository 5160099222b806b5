"""`adhmr checkpoint show | verify | export` on runs of each task; what is exported goes into the stages."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from adhmr import cli
from adhmr.config.loading import save_resolved
from adhmr.errors import AdhmrError
from adhmr.models.weights import load_model, read_metadata
from adhmr.training.checkpoint_export import export_checkpoint
from adhmr.training.checkpoint_report import show, verified
from adhmr.training.run import run_stage
from tests.tiny import adhmr

TRAIN = {
    "steps": 4,
    "global_batch": 4,
    "log_every": 2,
    "save_every": 1,
    "evaluate_every": 1,
    "ema_decay": 0.5,
    "keep_last": 2,
    "keep_every": 2,
    "best_metric": "pve_min10",
}


def trained(config):
    """The folder of a finished run, as `adhmr run` leaves it."""
    save_resolved(config, config.output / "config.yaml")
    run_stage(config)
    return config.output


@pytest.fixture(scope="module")
def base_run(tmp_path_factory, studio_set, tiny_weights):
    from adhmr.config.stages import BaseStage
    from tests.tiny import BASE, CROP

    return trained(
        BaseStage(
            stage="base",
            output=tmp_path_factory.mktemp("runs") / "base",
            data={"sets": [{"path": str(studio_set)}], "crop": CROP, "augment": None, "workers": 0},
            model=BASE,
            noise_draws=2,
            encoder_weights=tiny_weights / "encoder.safetensors",
            freeze_encoder=True,
            validation={"path": str(studio_set)},
            validation_limit=4,
            train=TRAIN,
            optim={"lr": 1e-2, "warmup_steps": 0},
        )
    )


@pytest.fixture
def run(base_run, tmp_path):
    """A copy of the finished base run, to be damaged."""
    return shutil.copytree(base_run, tmp_path / "run")


@pytest.fixture
def here(monkeypatch, capsys):
    """The command in this process: without the seconds that importing torch takes."""

    def command(*arguments) -> subprocess.CompletedProcess[str]:
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


def test_show(run):
    lines = show(run).splitlines()
    assert lines[0].split() == ["step", "size", "written", "kept", "state", "evaluation"]
    steps = [line.split()[0] for line in lines[1:]]
    assert steps[-2:] == ["3", "4"] and "2" in steps
    assert all("whole" in line and "pve_min10" in line for line in lines[1:])
    assert sum("best" in line for line in lines) == 1 and "last, every" in lines[-1]
    (run / "checkpoints" / "step-00000004" / "ema.safetensors").write_bytes(b"torn")
    (run / "checkpoints" / "step-00000003" / "manifest.json").unlink()
    shutil.copytree(run / "checkpoints" / "step-00000004", run / "checkpoints" / "damaged-step-00000009")
    *_, third, fourth, aside = show(run).splitlines()
    assert "damaged: ema.safetensors has 4 bytes" in fourth and "damaged: manifest.json is missing" in third
    assert aside.endswith("damaged-step-00000009 was damaged and is set aside")
    shutil.rmtree(run / "checkpoints")
    assert show(run) == f"{run} has no checkpoint"


def test_verify(run, here):
    newest = run / "checkpoints" / "step-00000004"
    before = sorted(run.rglob("*"))
    result = here("checkpoint", "verify", run)
    assert result.returncode == 0 and f"{newest}: whole" in result.stdout
    content = bytearray((newest / "optimizer.safetensors").read_bytes())
    content[-1] ^= 1
    (newest / "optimizer.safetensors").write_bytes(content)
    result = here("checkpoint", "verify", run)
    assert result.returncode == 1 and not result.stderr
    assert f"{newest}: damaged: optimizer.safetensors has another sha256" in result.stdout
    assert sorted(run.rglob("*")) == before  # nothing is set aside
    assert "whole" in show(run).splitlines()[-1]  # sizes alone say nothing of this
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(AdhmrError, match=r"run has no checkpoint"):
        list(verified(run))


def test_export_of_the_last_step_is_the_file_that_the_run_wrote(run, tmp_path, here):
    raw = ("--weights", "raw")
    for command, options, name in ((adhmr, (), "model"), (here, raw, "model_raw"), (here, ("--step", "4"), "model")):
        result = command("checkpoint", "export", run, tmp_path / "out" / "weights.safetensors", *options)
        assert result.returncode == 0, result.stderr
        assert "weights of step 4, kind base" in result.stdout
        assert (tmp_path / "out" / "weights.safetensors").read_bytes() == (run / f"{name}.safetensors").read_bytes()


def test_export_of_another_step(run, tmp_path):
    target = tmp_path / "weights.safetensors"
    line = export_checkpoint(run, target, "2", "raw")
    assert line.startswith(f"{target}: raw weights of step 2, kind base, ")
    found, saved = load_file(target), load_file(run / "checkpoints" / "step-00000002" / "model.safetensors")
    assert all(torch.equal(found[name], saved[name]) for name in saved)
    encoder = load_file(run / "model.safetensors")  # frozen: in no checkpoint, in each file
    assert found.keys() == encoder.keys() and found.keys() > saved.keys()
    metadata = read_metadata(target)
    assert (metadata["kind"], metadata["step"], metadata["crop_padding"]) == ("base", 2, 1.25)
    assert "fingerprint" not in metadata
    load_model(target, "base")


def test_export_of_the_best(run, tmp_path):
    manifests = {path: json.loads(path.read_text()) for path in run.glob("checkpoints/*/manifest.json")}
    best = min(manifests.values(), key=lambda manifest: manifest["evaluation"]["pve_min10"])
    export_checkpoint(run, tmp_path / "best.safetensors", "best")
    assert read_metadata(tmp_path / "best.safetensors")["step"] == best["step"]
    for path, manifest in manifests.items():
        path.write_text(json.dumps({**manifest, "evaluation": {}}))
    with pytest.raises(AdhmrError, match=r"no checkpoint has an evaluation with train.best_metric 'pve_min10'"):
        export_checkpoint(run, tmp_path / "none.safetensors", "best")


def test_export_passes_over_a_damaged_newest(run, tmp_path, caplog):
    (run / "checkpoints" / "step-00000004" / "model.safetensors").unlink()
    assert "step 3" in export_checkpoint(run, tmp_path / "weights.safetensors")
    assert "step-00000004 is damaged (model.safetensors cannot be read" in caplog.text
    with pytest.raises(AdhmrError, match=r"step-00000004 is damaged \(model.safetensors"):
        export_checkpoint(run, tmp_path / "weights.safetensors", "4")
    assert (run / "checkpoints" / "step-00000004").exists()


def test_refusals(run, tmp_path, tiny_weights, here):
    target = tmp_path / "weights.safetensors"
    for arguments, words in (
        ((run, target, "--step", "77"), "has no checkpoint of step 77; there are: "),
        ((run, target, "--step", "first"), "'first' is neither a number nor last nor best"),
        ((tmp_path / "none", target), "none/config.yaml: cannot read this config file"),
    ):
        result = here("checkpoint", "export", *arguments)
        assert result.returncode == 2 and words in result.stderr and "Traceback" not in result.stderr
    config = (run / "config.yaml").read_text()
    with pytest.raises(AdhmrError, match=r"is of another run than .*model.denoiser.ffn: 64 there, 32 here"):
        (run / "config.yaml").write_text(config.replace("ffn: 64", "ffn: 32"))
        export_checkpoint(run, target)
    other = shutil.copy(tiny_weights / "base.safetensors", tmp_path / "other.safetensors")
    with pytest.raises(AdhmrError, match=r"encoder_weights: .*other.safetensors has another content"):
        encoder = str(tiny_weights / "encoder.safetensors")
        (run / "config.yaml").write_text(config.replace(encoder, str(other)))
        export_checkpoint(run, target)
    with pytest.raises(AdhmrError, match=r"train.best_metric is null, so no checkpoint is the best; use --step last"):
        (run / "config.yaml").write_text(config.replace("best_metric: pve_min10", "best_metric: null"))
        export_checkpoint(run, target, "best")
    (tmp_path / "file").write_text("")
    (run / "config.yaml").write_text(config)
    with pytest.raises(AdhmrError, match=r"file/weights.safetensors: cannot be written"):
        export_checkpoint(run, tmp_path / "file" / "weights.safetensors")
    assert not target.exists()


def test_without_average(base_config, tmp_path):
    config = base_config(train={"steps": 1, "global_batch": 4, "ema_decay": None})
    run = trained(config)
    line = export_checkpoint(run, tmp_path / "weights.safetensors")
    assert "raw weights of step 1" in line
    with pytest.raises(
        AdhmrError, match=r"train.ema_decay is null, so there are no averaged weights; use --weights raw"
    ):
        export_checkpoint(run, tmp_path / "weights.safetensors", which="ema")


def test_a_scorer_run(scorer_config, tmp_path):
    run = trained(scorer_config())
    export_checkpoint(run, tmp_path / "weights.safetensors")
    assert (tmp_path / "weights.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    load_model(tmp_path / "weights.safetensors", "scorer")


def test_a_dpo_run_whose_base_is_an_exported_file(run, dpo_config, tmp_path, tiny_weights):
    aligned = trained(dpo_config())
    export_checkpoint(aligned, tmp_path / "aligned.safetensors")
    assert (tmp_path / "aligned.safetensors").read_bytes() == (aligned / "model.safetensors").read_bytes()
    assert "denoiser" in str(load_file(tmp_path / "aligned.safetensors").keys())
    export_checkpoint(run, tmp_path / "base.safetensors", "2")
    again = trained(dpo_config(base=tmp_path / "base.safetensors", output=tmp_path / "again"))
    encoder = {k: v for k, v in load_file(again / "model.safetensors").items() if k.startswith("encoder.")}
    assert_close(encoder, {name: load_file(tmp_path / "base.safetensors")[name] for name in encoder}, rtol=0, atol=0)
