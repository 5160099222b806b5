"""ZeRO-1, 2 and 3 against DDP in real processes: equal losses, exact resumes, checkpoints that fit everywhere."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adhmr.signals import EXIT_REQUEUE
from tests.distributed.launch import train
from tests.distributed.test_trainer_processes import assert_same_run, curve

# Without batch norm, so that no parameter has a gradient of rounding errors alone, which AdamW would blow up.
PLAIN = {"task": {"dropout": 0.0, "norm": False}, "train": {"steps": 12, "log_every": 1, "micro_batch": 2}}
ZERO = ("zero1", "zero2", "zero3")


def settings(strategy: str = "ddp", **changes) -> dict:
    distributed = {"strategy": strategy, **changes.pop("distributed", {})}
    return {**PLAIN, **changes, "distributed": distributed}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """One process, without interruption."""
    folder = tmp_path_factory.mktemp("alone")
    assert train(folder, 1, settings()) == [0]
    return folder


def assert_close(run_dir: Path, expected: Path) -> None:
    for line, wanted in zip(curve(run_dir), curve(expected), strict=True):
        assert line == pytest.approx(wanted, rel=1e-4)
    for name in ("model.safetensors", "model_raw.safetensors"):
        for key, value in load_file(run_dir / name).items():
            torch.testing.assert_close(value, load_file(expected / name)[key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("strategy", ZERO)
def test_equal_losses(strategy, world_size, tmp_path, alone):
    assert train(tmp_path, world_size, settings(strategy)) == [0] * world_size
    assert_close(tmp_path, alone)


def test_four_processes(tmp_path, alone):
    assert train(tmp_path / "ddp", 4, settings()) == [0] * 4
    assert train(tmp_path / "zero3", 4, settings("zero3")) == [0] * 4
    assert_close(tmp_path / "ddp", alone)
    assert_close(tmp_path / "zero3", alone)


@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_offloading(strategy, tmp_path, alone):
    offload = {"offload_optimizer": True, "offload_parameters": strategy == "zero3"}
    assert train(tmp_path, 2, settings(strategy, distributed=offload)) == [0, 0]
    assert_close(tmp_path, alone)


@pytest.mark.parametrize("strategy", ZERO)
def test_resume_is_exact(strategy, tmp_path):
    """With dropout, batch norm and an interval that the interruption cuts."""
    own = {"distributed": {"strategy": strategy}, "train": {"steps": 16, "evaluate_every": 6}}
    assert train(tmp_path / "whole", 2, own) == [0, 0]
    assert train(tmp_path / "cut", 2, {**own, "signal_at": 7}) == [EXIT_REQUEUE] * 2
    assert train(tmp_path / "cut", 2, own) == [0, 0]
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize(
    "places",
    [
        [("zero1", 2), ("zero3", 4), ("ddp", 1)],
        [("zero3", 2), ("zero2", 1), ("zero1", 4)],
        [("ddp", 2), ("zero3", 1), ("zero2", 2)],
    ],
    ids=lambda places: "-".join(f"{strategy}x{ranks}" for strategy, ranks in places),
)
def test_resume_elsewhere(places, tmp_path, alone):
    """Another number of processes and another strategy at every start."""
    for number, (strategy, world_size) in enumerate(places):
        last = number == len(places) - 1
        own = settings(strategy) | ({} if last else {"signal_at": 3 + 4 * number})
        assert train(tmp_path, world_size, own) == [0 if last else EXIT_REQUEUE] * world_size
    assert_close(tmp_path, alone)


@pytest.mark.parametrize("strategy", ZERO)
def test_nonfinite_on_one_rank_is_skipped_by_all(strategy, tmp_path):
    # Two ranks of 4 in steps of 8: position 53 is in step 6 on rank 1.
    assert train(tmp_path / "ddp", 2, settings(poison=[53])) == [0, 0]
    assert train(tmp_path / strategy, 2, settings(strategy, poison=[53])) == [0, 0]
    lines = curve(tmp_path / strategy)
    assert [line["skipped_steps"] for line in lines] == [0] * 6 + [1] * 6 and "loss" not in lines[6]
    assert_close(tmp_path / strategy, tmp_path / "ddp")


@pytest.mark.parametrize("strategy", ["ddp", *ZERO])
def test_bf16_means_the_same(strategy, tmp_path):
    """Autocast over fp32 weights under every strategy: first losses are equal, later ones close."""
    bf16 = {**PLAIN["train"], "precision": "bf16", "steps": 6}
    assert train(tmp_path / "ddp", 1, settings(train=bf16)) == [0]
    assert train(tmp_path / strategy, 2, settings(strategy, train=bf16)) == [0, 0]
    lines, wanted = curve(tmp_path / strategy), curve(tmp_path / "ddp")
    assert lines[0]["loss"] == pytest.approx(wanted[0]["loss"], rel=1e-6)
    assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in wanted], rel=2e-2)
    fp32 = {**PLAIN["train"], "steps": 6}
    assert train(tmp_path / "fp32", 1, settings(train=fp32)) == [0]
    assert lines[0]["loss"] != pytest.approx(curve(tmp_path / "fp32")[0]["loss"], rel=1e-6)
