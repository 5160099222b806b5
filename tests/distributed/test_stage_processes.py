"""The three trained stages in two processes under ZeRO-3 and DDP, and in one: the losses are the same."""

from pathlib import Path

import pytest
import torch

from adhmr.models.weights import load_weights
from adhmr.training.tracking import read_metrics
from tests.distributed.launch import train_stage
from tests.tiny import BASE, CROP, SCORER

TRAIN = {"steps": 4, "global_batch": 4, "log_every": 1, "ema_decay": 0.5}


@pytest.fixture
def stages(studio_set, preferences, tiny_weights) -> dict[str, dict]:
    data = {"sets": [{"path": str(studio_set)}], "crop": CROP, "augment": None, "workers": 0}
    common = {"optim": {"lr": 1e-3}, "encoder_weights": str(tiny_weights / "encoder.safetensors")}
    base = {"stage": "base", "data": data, "model": BASE, "noise_draws": 2, **common}
    noise = {"kind": "mixed", "pose": 0.5, "root": 0.2, "betas": 0.3}
    scorer = {
        "metric_vertices": 100,
        "stage": "scorer",
        "data": data,
        "model": SCORER,
        "hypotheses": 6,
        "noise": noise,
        **common,
    }
    dpo = {
        "stage": "dpo",
        "base": str(tiny_weights / "base.safetensors"),
        "preferences": [{"path": str(preferences / "studio-error")}],
        "pairs_per_image": 2,
        "workers": 0,
        "optim": {"lr": 1e-4},
    }
    return {
        "base": {**base, "loss": {"heatmap": 1.0, "depth": 1.0}},
        "base-frozen": {**base, "freeze_encoder": True},
        "scorer": scorer,
        "scorer-encoder": {**scorer, "freeze_encoder": False, "loss": {"joints2d": 1.0, "heatmap": 1.0, "depth": 1.0}},
        "dpo": dpo,
        "dpo-encoder": {**dpo, "train_encoder": True},
        "kto": {**dpo, "objective": "kto"},
    }


def run(stage: dict, output: Path, world_size: int, strategy: str = "ddp", **train) -> list[dict]:
    whole = {**stage, "output": str(output), "train": {**TRAIN, **train}, "distributed": {"strategy": strategy}}
    assert train_stage(whole, world_size) == [0] * world_size
    return read_metrics(output)


def assert_same(found: list[dict], wanted: list[dict]) -> None:
    assert len(found) == len(wanted) == TRAIN["steps"]
    for line, other in zip(found, wanted):
        for name in ("loss", "grad_norm"):
            assert line[name] == pytest.approx(other[name], rel=2e-3)


@pytest.mark.parametrize("name", ["base", "base-frozen", "scorer", "scorer-encoder", "dpo", "dpo-encoder", "kto"])
def test_zero_is_ddp(name, stages, tmp_path):
    ddp = run(stages[name], tmp_path / "ddp", 2)
    zero = run(stages[name], tmp_path / "zero3", 2, "zero3")
    assert_same(zero, ddp)
    (weights, about), (wanted, _) = (load_weights(tmp_path / kind / "model.safetensors") for kind in ("zero3", "ddp"))
    assert weights.keys() == wanted.keys() and about["kind"] == ("scorer" if "scorer" in name else "base")
    assert all(weights[key].shape == wanted[key].shape and weights[key].dtype == wanted[key].dtype for key in wanted)
    shift = max((weights[key] - wanted[key]).abs().max().item() for key in wanted if weights[key].numel())
    assert shift < 4 * TRAIN["steps"] * stages[name]["optim"]["lr"]  # AdamW moves by lr a step, either way at zero


@pytest.mark.parametrize("name", ["base-frozen", "scorer", "dpo", "kto"])
def test_processes_agree(name, stages, tmp_path):
    """Without batch statistics; dropout is off in the tiny networks."""
    assert_same(run(stages[name], tmp_path / "two", 2), run(stages[name], tmp_path / "one", 1))


@pytest.mark.parametrize("name", ["base", "scorer-encoder", "dpo-encoder"])
@pytest.mark.parametrize("strategy", ["ddp", "zero3"])
def test_activation_checkpointing(name, strategy, stages, tmp_path):
    plain = run(stages[name], tmp_path / "plain", 2, strategy)
    saving = run(stages[name], tmp_path / "saving", 2, strategy, activation_checkpointing=True)
    assert_same(saving, plain)
    for key, value in load_weights(tmp_path / "plain/model.safetensors")[0].items():
        other = load_weights(tmp_path / "saving/model.safetensors")[0][key]
        if "running" in key or "num_batches" in key:
            torch.testing.assert_close(other, value, rtol=1e-3, atol=1e-4)


def test_weights_that_no_loss_trains(stages, tmp_path):
    lonely = {**stages["scorer-encoder"], "loss": {}, "output": str(tmp_path / "refused"), "train": TRAIN}
    assert train_stage(lonely, 2) == [2, 2]
    message = (tmp_path / "refused/error-0.txt").read_text()
    assert "the loss does not depend on 4 trained weights (encoder." in message and "unused_parameters" in message
    allowed = {**lonely, "distributed": {"unused_parameters": True}, "output": str(tmp_path / "allowed")}
    assert train_stage(allowed, 2) == [0, 0]
    assert_same(read_metrics(tmp_path / "allowed"), run(lonely, tmp_path / "zero2", 2, "zero2"))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "zero2"])
def test_compiled(strategy, stages, tmp_path):
    assert_same(
        run(stages["base"], tmp_path / "compiled", 2, strategy, compile=True),
        run(stages["base"], tmp_path / "plain", 2, strategy),
    )
