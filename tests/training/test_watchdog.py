"""Real processes that hang: stacks of every rank, who is behind, the exit code; and those that only seem to."""

import json
import os
import signal
import sys
import time

import pytest

from adhmr.signals import EXIT_REQUEUE
from adhmr.training.flight_recorder import prepare_flight_recorder
from adhmr.training.heartbeats import Heartbeat, heartbeat_file, who_is_behind
from adhmr.training.watchdog import Watchdog
from tests.training.hanging import start, wait

linux = pytest.mark.skipif(sys.platform != "linux", reason="timers and signals of Linux")


def stacks(run_dir, rank):
    return (run_dir / "hang" / f"rank-{rank:05d}.txt").read_text()


def heartbeat(rank, step=12, phase="model", order=1):
    return Heartbeat(rank, "node", 100 + rank, step, phase, order, 0.0, 1.0)


def test_a_process_that_hangs_leaves_its_stacks_and_is_started_again(tmp_path):
    assert wait(start(tmp_path, ["model"], 1.0)) == [EXIT_REQUEUE]
    text = stacks(tmp_path, 0)
    assert "no progress for 1 s in step 3, model" in text
    assert "sleep_in_python" in text and "hanging.py" in text
    (line,) = (tmp_path / "stderr").read_text().splitlines()
    assert "no progress for 1 s: rank 0 (" in line and "step 3, model" in line and str(tmp_path / "hang") in line
    assert (tmp_path / "on-hang-0").read_text() == line


@linux
def test_a_call_that_holds_the_interpreter_lock(tmp_path):
    begun = time.monotonic()
    assert wait(start(tmp_path, ["lock"], 1.0)) == [EXIT_REQUEUE]
    assert "sleep_with_the_interpreter_lock" in stacks(tmp_path, 0)
    assert time.monotonic() - begun > 2


@linux
@pytest.mark.parametrize("way", ["data", "lock"])
@pytest.mark.parametrize("culprit", [0, 1])
def test_one_of_two_hangs(way, culprit, tmp_path):
    ways = ["collective", "collective"]  # the other one waits for it
    ways[culprit] = way
    assert wait(start(tmp_path, ways, 2.0)) == [EXIT_REQUEUE] * 2
    where = {"data": "sleep_in_python", "lock": "sleep_with_the_interpreter_lock"}[way]
    assert where in stacks(tmp_path, culprit)
    assert "wait_for_the_others" in stacks(tmp_path, 1 - culprit)
    record = json.loads((tmp_path / "hang" / f"collectives-rank-{1 - culprit:05d}.json").read_text())
    assert record["gloo"]["entries"][-1]["profiling_name"] == "gloo:all_reduce"
    (line,) = (tmp_path / "stderr").read_text().splitlines()
    sign = {"data": "behind: rank", "lock": "no sign of life from rank"}[way]
    assert f"{sign} {culprit} (" in line and "step 3, data" in line


def test_a_rank_that_died_is_named(tmp_path):
    assert wait(start(tmp_path, ["model", "die"], 1.0)) == [EXIT_REQUEUE, 7]
    (line,) = (tmp_path / "stderr").read_text().splitlines()
    assert "no sign of life from rank 1 (" in line


def test_stacks_of_an_earlier_hang_stay(tmp_path):
    for _ in range(2):
        assert wait(start(tmp_path, ["model"], 0.5)) == [EXIT_REQUEUE]
    assert stacks(tmp_path, 0).count("made no progress") == 2


def test_as_long_as_one_rank_beats_nothing_hangs(tmp_path):
    # Rank 1 works for both for three times the limit; then nobody beats.
    begun = time.monotonic()
    processes = start(tmp_path, ["model", "6"], 2.0)
    assert wait(processes) == [EXIT_REQUEUE, 0]
    assert time.monotonic() - begun > 7


@linux
def test_a_stopped_process_that_goes_on_does_not_hang(tmp_path):
    (process,) = start(tmp_path, ["7"], 2.0)
    file = heartbeat_file(tmp_path, 0)
    while not file.exists() or json.loads(file.read_text())["step"] < 4:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(3.5)  # longer than the limit, less than twice
    os.kill(process.pid, signal.SIGCONT)
    assert wait([process]) == [0]
    assert not (tmp_path / "stderr").read_text()
    assert "this process was stopped for" in stacks(tmp_path, 0)


def test_heartbeats_can_be_read_at_any_moment(tmp_path):
    (process,) = start(tmp_path, ["3"], 10.0)
    file, steps = heartbeat_file(tmp_path, 0), []
    while process.is_alive():
        if file.exists():
            said = json.loads(file.read_text())
            assert said["rank"] == 0 and said["pid"] == process.pid and said["since"] <= said["time"]
            steps.append(said["step"])
    assert steps == sorted(steps) and len(set(steps)) >= 3
    assert json.loads(file.read_text())["phase"] == "ended"
    assert not (tmp_path / "hang" / "rank-00000.txt").exists()  # nothing hung
    assert wait([process]) == [0]


def test_a_folder_that_cannot_be_written_does_not_stop_training(tmp_path):
    with Watchdog(0.3, tmp_path) as watchdog:
        file = heartbeat_file(tmp_path, 0)
        file.unlink()
        file.parent.rmdir()
        file.parent.write_text("in the way")
        for step in range(30):
            watchdog.beat(step, "model")
            time.sleep(0.02)


@linux
def test_on_a_full_disk_the_stacks_are_on_stderr(tmp_path):
    (tmp_path / "hang").mkdir()
    (tmp_path / "hang" / "rank-00000.txt").symlink_to("/dev/full")
    assert wait(start(tmp_path, ["model"], 1.0)) == [EXIT_REQUEUE]
    text = (tmp_path / "stderr").read_text()
    assert "sleep_in_python" in text and "no progress for 1 s: rank 0 (" in text


def test_a_beat_is_cheap(tmp_path):
    watchdog = Watchdog(60, tmp_path)
    begun = time.perf_counter()
    for step in range(10_000):
        watchdog.beat(step, "model")
    assert (time.perf_counter() - begun) / 10_000 < 1e-4  # seconds


def test_who_is_behind():
    ranks = [heartbeat(rank) for rank in range(4)]
    assert who_is_behind(ranks, [], []) == "all ranks in one place: step 12, model"
    ranks[2] = heartbeat(2, phase="data", order=0)
    assert who_is_behind(ranks, [], []).startswith("behind: rank 2 (node, pid 102, step 12, data); the foremost: rank ")
    ranks[1] = heartbeat(1, step=11, order=5)
    assert who_is_behind(ranks, [], []).startswith("behind: rank 1 (node, pid 101, step 11, model); ")
    lost = who_is_behind(ranks[:1], [ranks[3]], [7])
    assert lost.startswith("no sign of life from rank 3 (") and "never heard of rank 7" in lost
    many = who_is_behind([heartbeat(rank) for rank in range(1, 100)] + [heartbeat(0, step=13)], [], [])
    assert "and 91 more" in many and len(many) < 600


def test_the_flight_recorder_keeps_what_the_user_set(tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.startswith(("TORCH_FR_", "TORCH_NCCL_")):
            monkeypatch.delenv(name)
    before = dict(os.environ)
    monkeypatch.setenv("TORCH_NCCL_DUMP_ON_TIMEOUT", "0")
    prepare_flight_recorder(tmp_path)
    made = {name: value for name, value in os.environ.items() if name not in before}
    for name in made:
        monkeypatch.delenv(name)
    assert made.pop("TORCH_NCCL_DUMP_ON_TIMEOUT") == "0"
    assert set(made.values()) == {"2000", str(tmp_path / "hang" / "nccl-rank-")}
