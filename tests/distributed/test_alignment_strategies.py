"""Alignment with adapters and with a trained encoder, in two processes: DDP, ZeRO-1, 2 and 3 have the same losses, so
each has the exact reference; what is saved fits every strategy."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adhmr.models.weights import load_weights
from adhmr.training.tracking import read_metrics
from tests.distributed.launch import train_stage
from tests.tiny import write_reading_base

STEPS = 3
TRAIN = {"steps": STEPS, "global_batch": 4, "log_every": 1, "ema_decay": 0.5}
WAYS = {"lora": {"lora": {"rank": 2, "dropout": 0.0}}, "encoder": {"train_encoder": True}}


@pytest.fixture(scope="module")
def align(preferences, tiny_weights, tmp_path_factory):
    """Runs an alignment once for each name: its folder."""
    root, made = tmp_path_factory.mktemp("align"), set()
    base = root / "base.safetensors"
    write_reading_base(base, tiny_weights / "base.safetensors")

    def run(way: str, strategy: str, processes: int = 2, name: str = "", **train) -> Path:
        output = root / (name or f"{way}-{strategy}-{processes}")
        if output in made:
            return output
        stage = {
            "stage": "dpo",
            "output": str(output),
            "base": str(base),
            "preferences": [{"path": str(preferences / "studio-error")}],
            "pairs_per_image": 2,
            "workers": 0,
            "optim": {"lr": 1e-3, "warmup_steps": 0},
            "train": {**TRAIN, **train},
            "distributed": {"strategy": strategy},
            **WAYS[way],
        }
        assert train_stage(stage, processes) == [0] * processes
        made.add(output)
        return output

    return run


def assert_same(folder: Path, wanted: Path) -> None:
    lines, others = read_metrics(folder), read_metrics(wanted)
    assert len(lines) == len(others) == STEPS
    assert len({line["loss"] for line in lines}) == STEPS and lines[0]["grad_norm"] > 0
    for line, other in zip(lines, others):
        for name in ("loss", "grad_norm"):
            assert line[name] == pytest.approx(other[name], rel=2e-3)


@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3"])
@pytest.mark.parametrize("way", WAYS)
def test_the_reference_is_exact_under_zero(way, strategy, align):
    found, wanted = align(way, strategy), align(way, "ddp")
    assert_same(found, wanted)
    weights, others = (load_weights(folder / "model.safetensors")[0] for folder in (found, wanted))
    assert weights.keys() == others.keys()
    for key, value in weights.items():
        torch.testing.assert_close(
            value, others[key], rtol=0, atol=4e-3
        )  # AdamW moves by lr a step, either way at zero


@pytest.mark.parametrize("strategy", ["ddp", "zero3"])
def test_adapters_of_two_processes_are_those_of_one(strategy, align):
    assert_same(align("lora", strategy), align("lora", "ddp", processes=1))
    state = load_file(align("lora", strategy) / "checkpoints" / f"step-{STEPS:08d}" / "model.safetensors")
    assert len(state) == 40 and all(".lora_" in name and value.numel() for name, value in state.items())


@pytest.mark.parametrize(
    ("train", "tolerance"), [({"precision": "bf16"}, 2e-2), ({"activation_checkpointing": True}, 2e-3)]
)
def test_adapters_in_bf16_and_with_checkpointed_activations(train, tolerance, align):
    lines = read_metrics(align("lora", "zero3", name=f"zero3-{next(iter(train))}", **train))
    for line, other in zip(lines, read_metrics(align("lora", "ddp")), strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=tolerance)
    assert lines[0]["loss"] == pytest.approx(2 * math.log(2), rel=1e-5)  # the policy equals the reference
