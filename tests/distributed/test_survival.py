"""Runs that meet what ends runs: spikes, hangs, crashes, full disks. In each the weights are those of a quiet run."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from adhmr.signals import EXIT_REQUEUE
from adhmr.training.attempts import EXIT_STALE, read_attempts
from adhmr.training.checkpoint import step_folders
from adhmr.training.tracking import read_metrics
from tests.distributed.launch import start, train, wait
from tests.distributed.test_trainer_processes import assert_same_run, await_step, curve
from tests.training.toy import toy_trainer

SETTINGS = {"train": {"steps": 40, "evaluate_every": 15}}


@pytest.fixture(scope="module")
def quiet(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("quiet")
    assert train(folder, 2, SETTINGS) == [0, 0]
    return folder


# ------------------------------------------------------------------------------------------------ spikes
# Steps of 8 samples: 50, 51 and 52 are wild. The usual range is known from step 20 on.
WILD = [*range(400, 424)]
SPIKES = {
    "wild": WILD,
    "task": {"dropout": 0.0, "norm": False},
    "train": {"steps": 70, "save_every": 15, "spikes": {"window": 40, "threshold": 20, "patience": 3}},
}


@pytest.mark.parametrize("strategy", ["ddp", "zero2", "zero3"])
def test_spike_sends_the_run_back_without_its_samples(strategy, tmp_path):
    own = {**SPIKES, "distributed": {"strategy": strategy}}
    assert train(tmp_path / "run", 2, own) == [0, 0]
    state = json.loads((tmp_path / "run/checkpoints/step-00000070/state.json").read_text())
    assert state["rewinds"] == 1 and state["data"]["left_out"] == [[400, 424]]
    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [*range(5, 75, 5)]
    # As if these samples had never been there.
    clean = {**own, "wild": [], "left_out": [[400, 424]]}
    assert train(tmp_path / "clean", 2, clean) == [0, 0]
    assert_same_run(tmp_path / "run", tmp_path / "clean")


@pytest.mark.parametrize("signal_at", [47, 52, 60])
def test_spike_and_interruption(signal_at, tmp_path):
    """Before the spike, within it, after it: the range that was usual is a part of the checkpoint."""
    assert train(tmp_path / "whole", 2, SPIKES) == [0, 0]
    assert train(tmp_path / "cut", 2, {**SPIKES, "signal_at": signal_at}) == [EXIT_REQUEUE] * 2
    assert train(tmp_path / "cut", 2, SPIKES) == [0, 0]
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def test_spike_after_spike_ends_the_run(tmp_path):
    own = {**SPIKES, "wild": [*range(400, 800)]}
    own["train"] = {**own["train"], "spikes": {**own["train"]["spikes"], "max_rewinds": 2}}
    assert train(tmp_path, 2, own) == [2, 2]
    for rank in (0, 1):
        message = (tmp_path / f"error-{rank}.txt").read_text()
        assert "went back 2 times already (train.spikes.max_rewinds)" in message and "in step 52" in message
    assert step_folders(tmp_path / "checkpoints")[-1].name == "step-00000045"


def test_spike_before_any_checkpoint(tmp_path, capsys):
    toy_trainer(tmp_path, {**SPIKES, "train": {**SPIKES["train"], "save_every": 60}}).fit()
    assert "no checkpoint from before to go back to, going on" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ hangs and crashes
def test_hanging_rank(tmp_path, quiet):
    impatient = {**SETTINGS, "train": {**SETTINGS["train"], "hang_seconds": 5}}
    assert train(tmp_path, 2, {**impatient, "hang_at": 16}) == [EXIT_REQUEUE] * 2
    for rank in (0, 1):
        stacks = (tmp_path / f"hang/rank-{rank:05d}.txt").read_text()
        assert "in step 16" in stacks and "stepper.py" in stacks
    assert "toy.py" in (tmp_path / "hang/rank-00001.txt").read_text()  # where the hanging rank sleeps
    end = read_attempts(tmp_path)[-1]
    assert end["outcome"] == "hung" and "behind: rank 1" in end["reason"] and "step 16, data" in end["reason"]
    assert train(tmp_path, 2, SETTINGS) == [0, 0]
    assert_same_run(tmp_path, quiet)


def test_crash_loop_is_refused_then_forgiven(tmp_path, quiet):
    own = {**SETTINGS, "train": {**SETTINGS["train"], "max_failed_starts": 2}}
    for _ in range(2 + 1):  # the first one begins at step 0 and gets to the checkpoint of step 14
        assert train(tmp_path, 2, {**own, "fail_at": 16}) == [1, 1]
    assert train(tmp_path, 2, own) == [2, 2]
    for rank in (0, 1):
        message = (tmp_path / f"error-{rank}.txt").read_text()
        assert "2 x failed: RuntimeError: broken at step 16" in message and "attempts.jsonl" in message
    assert train(tmp_path, 2, own) == [0, 0]
    assert_same_run(tmp_path, quiet)


@pytest.mark.parametrize("world_size", [1, 2])
def test_attempt_that_comes_back_writes_no_more(world_size, tmp_path):
    """A node froze, the run was started again elsewhere, and then the node goes on."""
    assert train(tmp_path / "quiet", world_size, SETTINGS) == [0] * world_size
    frozen = start(tmp_path / "run", world_size, {**SETTINGS, "sleep": 0.02})
    await_step(tmp_path / "run", 10)
    for process in frozen:
        os.kill(process.pid, signal.SIGSTOP)
    assert train(tmp_path / "run", world_size, SETTINGS) == [0] * world_size
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    for process in frozen:
        os.kill(process.pid, signal.SIGCONT)
    codes = wait(frozen)
    assert codes[0] == EXIT_STALE and 0 not in codes
    assert "attempt 2 of this run has begun, this one is number 1" in (tmp_path / "run/error-0.txt").read_text()
    after = {path: path.read_bytes() for path in before}
    assert {path.name for path in before if after[path] != before[path]} <= {"rank-00000.json", "rank-00001.json"}
    assert_same_run(tmp_path / "run", tmp_path / "quiet")


# ------------------------------------------------------------------------------------------------ full disk
@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB; what fills it is a file `ballast`."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk_while_saving(small_disk, tmp_path):
    wide = {**SETTINGS, "task": {"width": 4000}}  # a checkpoint of 0.6 MB
    assert train(tmp_path / "quiet", 2, wide) == [0, 0]
    checkpoints = small_disk / "checkpoints"
    assert train(small_disk, 2, {**wide, "signal_at": 10}) == [EXIT_REQUEUE] * 2
    free = shutil.disk_usage(small_disk).free
    (small_disk / "ballast").write_bytes(bytes(free - 200_000))  # room for figures, not for a checkpoint
    assert train(small_disk, 2, wide) == [2, 2]
    for rank in (0, 1):
        assert "make room" in (small_disk / f"error-{rank}.txt").read_text()
    assert [folder.name for folder in step_folders(checkpoints)] == ["step-00000007", "step-00000011"]
    assert not [path.name for path in checkpoints.iterdir() if path.name.startswith(".")]
    (small_disk / "ballast").unlink()
    assert train(small_disk, 2, wide) == [0, 0]
    assert_same_run(small_disk, tmp_path / "quiet")


def test_figures_of_a_run(tmp_path):
    """What is logged with two ranks; FLOPs of the toy by hand."""
    own = {**SETTINGS, "tracking": {"peak_tflops": 1e-6}}
    assert train(tmp_path, 2, own) == [0, 0]
    line = read_metrics(tmp_path)[-1]
    assert {"step_time_max", "slowest_rank", "data_wait_max", "goodput", "tflops", "mfu"} <= set(line)
    assert 0 < line["goodput"] <= 1
    products = 6 * 16 + 16 * 1  # multiply-adds a sample; backward: both for the weights, the second for its input
    operations = 2 * products + 2 * products + 2 * 16
    assert line["mfu"] == pytest.approx(operations * line["samples_per_s"] / 2 / 1e6, rel=1e-6)
    assert len(curve(tmp_path)) == 8 and load_file(tmp_path / "model.safetensors")
