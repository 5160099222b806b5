"""Whole runs in one and two processes: interrupted by signals and by SIGKILL, resumed, compared bit for bit."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adhmr.signals import EXIT_REQUEUE
from adhmr.training.checkpoint import CheckpointStore
from adhmr.training.tracking import read_metrics
from tests.distributed.launch import start, train, wait

EXACT = ("step", "loss", "absolute", "grad_norm", "lr", "skipped_steps", "evaluation/error")
PATIENCE = 180  # seconds for a process to start and to make steps: machines are shared
SETTINGS = {"train": {"steps": 40, "evaluate_every": 15}}


def curve(run_dir: Path) -> list[dict]:
    """The logged figures that must not depend on how often a run was interrupted."""
    return [{name: line[name] for name in EXACT if name in line} for line in read_metrics(run_dir)]


def assert_same_run(run_dir: Path, expected: Path) -> None:
    assert curve(run_dir) == curve(expected)
    for name in ("model.safetensors", "model_raw.safetensors"):
        weights, wanted = load_file(run_dir / name), load_file(expected / name)
        assert weights.keys() == wanted.keys()
        for key in weights:
            assert torch.equal(weights[key], wanted[key]), f"{name}: {key}"


def train_to_end(run_dir: Path, world_size: int, settings: dict) -> int:
    """Starts again while the processes ask for it; returns how often."""
    for restarts in range(30):
        codes = train(run_dir, world_size, settings)
        if codes == [0] * world_size:
            return restarts
        assert codes == [EXIT_REQUEUE] * world_size
    raise AssertionError("the run never ended")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict[int, Path]:
    runs = {}
    for world_size in (1, 2):
        runs[world_size] = tmp_path_factory.mktemp(f"uninterrupted{world_size}")
        assert train(runs[world_size], world_size, SETTINGS) == [0] * world_size
        assert [line["step"] for line in curve(runs[world_size])] == [5, 10, 15, 20, 25, 30, 35, 40]
    return runs


@pytest.mark.parametrize("world_size", [1, 2])
def test_signal_saves_and_resume_is_exact(world_size, tmp_path, uninterrupted):
    # Step 12 is neither a log step nor a save step, and only the last rank gets the signal.
    assert train(tmp_path, world_size, {**SETTINGS, "signal_at": 12}) == [EXIT_REQUEUE] * world_size
    assert CheckpointStore(tmp_path / "checkpoints", 2).find_last().name == "step-00000013"
    assert not (tmp_path / "done.json").exists()
    assert train(tmp_path, world_size, SETTINGS) == [0] * world_size
    assert_same_run(tmp_path, uninterrupted[world_size])


def test_signal_to_all_processes(tmp_path, uninterrupted):
    processes = start(tmp_path, 2, {**SETTINGS, "sleep": 0.02})
    await_step(tmp_path, 5)
    for process in processes:
        os.kill(process.pid, signal.SIGUSR2)
    assert wait(processes) == [EXIT_REQUEUE] * 2
    assert train(tmp_path, 2, SETTINGS) == [0, 0]
    assert_same_run(tmp_path, uninterrupted[2])


@pytest.mark.parametrize(("world_size", "strategy"), [(1, "ddp"), (2, "ddp"), (2, "zero3")])
def test_kill_at_random_moments(world_size, strategy, tmp_path, uninterrupted):
    # save_every 1: many of the kills fall into the writing of a checkpoint. An attempt may be killed before it saved.
    settings = {
        "train": {**SETTINGS["train"], "save_every": 1, "max_failed_starts": 99},
        "distributed": {"strategy": strategy},
    }
    if strategy != "ddp":
        uninterrupted = {world_size: tmp_path / "uninterrupted"}
        assert train(uninterrupted[world_size], world_size, settings) == [0] * world_size
    tmp_path /= "run"
    chance = random.Random(world_size)
    for target in (0, 3, 8, 13, 18, 23, 28, 33):
        wanted = max(target, _newest_step(tmp_path) + 1) if target else 0  # a step of this attempt: its processes met
        processes = start(tmp_path, world_size, settings)
        until = time.monotonic() + PATIENCE
        while _newest_step(tmp_path) < wanted:
            assert time.monotonic() < until, "the run makes no steps"
            time.sleep(0.005)
        time.sleep((0.3 if target == 0 else 0.03) * chance.random())
        # Before the processes have met, a survivor waits for its peer until the rendezvous gives up, minutes later.
        everyone = chance.random() < 0.5 or target == 0
        for process in processes if everyone else processes[-1:]:
            process.kill()
        codes = wait(processes)
        if (tmp_path / "done.json").exists():
            break  # on a busy machine the run may be faster than the kill
        assert 0 not in codes  # a survivor notices that its peer is gone
    assert train(tmp_path, world_size, settings) == [0] * world_size
    assert_same_run(tmp_path, uninterrupted[world_size])


def test_time_limit(tmp_path, uninterrupted):
    settings = {"train": {**SETTINGS["train"], "max_seconds": 0.5}, "sleep": 0.01}
    assert train_to_end(tmp_path, 2, settings) >= 1
    assert_same_run(tmp_path, uninterrupted[2])


def test_world_sizes_agree(tmp_path):
    """Without dropout and batch statistics a step is the same mean over the same samples on any number of ranks."""
    settings = {"train": {"steps": 12, "log_every": 1, "global_batch": 8}, "task": {"dropout": 0.0, "norm": False}}
    curves = {}
    for world_size, micro_batch in ((1, 8), (1, 2), (2, 2)):
        folder = tmp_path / f"{world_size}x{micro_batch}"
        assert (
            train(folder, world_size, {**settings, "train": {**settings["train"], "micro_batch": micro_batch}})
            == [0] * world_size
        )
        curves[world_size, micro_batch] = curve(folder)
    for line, accumulated, parallel in zip(*curves.values()):
        assert accumulated == pytest.approx(line, rel=1e-4)
        assert parallel == pytest.approx(line, rel=1e-4)


def test_resume_on_another_world_size(tmp_path):
    settings = {"train": {"steps": 12, "log_every": 4}, "task": {"dropout": 0.0, "norm": False}}
    assert train(tmp_path / "whole", 1, settings) == [0]
    assert train(tmp_path / "moved", 2, {**settings, "signal_at": 5}) == [EXIT_REQUEUE] * 2
    assert train(tmp_path / "moved", 1, settings) == [0]
    for line, expected in zip(curve(tmp_path / "moved"), curve(tmp_path / "whole"), strict=True):
        assert line == pytest.approx(expected, rel=1e-4)


def test_nonfinite_on_one_rank_is_skipped_by_all(tmp_path):
    # Two ranks of 4 in steps of 8: position 53 is in step 6 on rank 1.
    assert train(tmp_path, 2, {"train": {"steps": 10, "log_every": 1}, "poison": [53]}) == [0, 0]
    (record,) = json.loads((tmp_path / "nonfinite.json").read_text())
    assert record["step"] == 6
    assert [rank["loss"] == "nan" for rank in record["ranks"]] == [False, True]
    assert record["ranks"][1]["positions"] == [52, 53, 54, 55]
    assert record["ranks"][1]["keys"] == ["toy-52", "toy-53", "toy-54", "toy-55"]
    lines = read_metrics(tmp_path)
    assert [line["skipped_steps"] for line in lines] == [0] * 6 + [1] * 4
    assert "loss" not in lines[6]
    for name in ("model.safetensors", "model_raw.safetensors"):
        assert all(value.isfinite().all() for value in load_file(tmp_path / name).values())


def test_nonfinite_in_a_row_ends_the_run(tmp_path):
    settings = {"train": {"steps": 10, "max_nonfinite": 2}, "poison": [33, 41, 49]}  # steps 4, 5, 6
    assert train(tmp_path, 2, settings) == [2, 2]
    for rank in (0, 1):
        message = (tmp_path / f"error-{rank}.txt").read_text()
        assert "3 steps in a row up to step 6" in message and "nonfinite.json" in message
    assert len(json.loads((tmp_path / "nonfinite.json").read_text())) == 3


def _newest_step(run_dir: Path) -> int:
    return max((int(path.name[5:]) for path in run_dir.glob("checkpoints/step-*")), default=0)


def await_step(run_dir: Path, step: int) -> None:
    until = time.monotonic() + PATIENCE
    while not any(line["step"] >= step for line in read_metrics(run_dir)):
        assert time.monotonic() < until, "the run makes no steps"
        time.sleep(0.02)
