"""Attempts of a run: crash loops over any sequence of them, torn files, goodput."""

import json
import multiprocessing
import os
import time
from itertools import takewhile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adhmr.errors import AdhmrError
from adhmr.training.attempts import Attempts, read_attempts


@pytest.fixture
def fast_disk(monkeypatch):
    """Syncing to disk is most of the time of many short attempts."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


ENDS = st.sampled_from(["finished", "left", "hung", "failed", "died"])


def attempt(run_dir, step, end, limit=3, reason=""):
    attempts = Attempts(run_dir, limit)
    number = attempts.begin(step, 2)
    if end != "died":
        attempts.end(end, step, reason)
    return number


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sequence=st.lists(st.tuples(st.integers(0, 2), ENDS), max_size=14),
    limit=st.integers(1, 4),
    torn=st.booleans(),
)
def test_refused_exactly_when_the_last_ones_all_failed_at_this_step(sequence, limit, torn, fast_disk, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    past = []  # (step, failed) since the last refusal, oldest first
    numbers = []
    for step, end in sequence:
        failures = takewhile((step, True).__eq__, reversed(past))
        if len(list(failures)) >= limit:
            with pytest.raises(AdhmrError, match=f"attempts began at step {step} "):
                Attempts(folder, limit).begin(step, 2)
            past.clear()
            continue
        numbers.append(attempt(folder, step, end, limit))
        past.append((step, end in ("hung", "failed", "died")))
        if torn:
            with open(folder / "attempts.jsonl", "a") as file:
                file.write('{"event": "ended", "att')
    assert numbers == list(range(1, len(numbers) + 1))


def test_the_refusal_names_the_reasons_and_what_to_do(tmp_path):
    for end, reason in (("failed", "no CUDA\n device"), ("failed", "no CUDA device"), ("hung", ""), ("died", "")):
        attempt(tmp_path, 40, end, limit=4, reason=reason)
    with pytest.raises(AdhmrError) as error:
        Attempts(tmp_path, 4).begin(40, 2)
    message = str(error.value)
    assert str(tmp_path / "attempts.jsonl") in message and "train.max_failed_starts" in message
    assert "(1 x died; 1 x hung; 2 x failed: no CUDA device)" in message
    assert "start the run again" in message and "\n" not in message
    assert attempt(tmp_path, 40, "died", limit=4) == 5  # the user has been told


def test_progress_is_no_crash_loop(tmp_path):
    for step in range(0, 100, 10):
        attempt(tmp_path, step, "died", limit=2)


def test_what_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert attempt(tmp_path, 7, "left", reason="SIGUSR2") == 1
    begun, ended = read_attempts(tmp_path)
    assert begun.pop("time") <= ended.pop("time") <= time.time()
    assert begun.pop("host")
    assert begun == {
        "event": "begun", "attempt": 1, "step": 7, "world_size": 2, "pid": os.getpid(), "job": "4711", "restart": "2",
    }  # fmt: skip
    assert ended == {"event": "ended", "attempt": 1, "step": 7, "outcome": "left", "reason": "SIGUSR2"}


def test_a_file_torn_anywhere_is_read_and_gone_on_with(fast_disk, tmp_path):
    attempt(tmp_path / "whole", 3, "died")
    attempt(tmp_path / "whole", 3, "failed", reason="x")
    whole = (tmp_path / "whole" / "attempts.jsonl").read_bytes()
    for length in range(len(whole) + 1):
        folder = tmp_path / "torn"
        folder.mkdir(exist_ok=True)
        (folder / "attempts.jsonl").write_bytes(whole[:length])
        before = read_attempts(folder)
        assert len(before) in (whole[:length].count(b"\n"), whole[:length].count(b"\n") + 1)
        number = attempt(folder, 3, "left")
        lines = read_attempts(folder)
        assert lines[: len(before)] == before and len(lines) == len(before) + 2
        assert lines[-2]["attempt"] == lines[-1]["attempt"] == number


def _attempts_without_end(run_dir):
    while True:
        attempts = Attempts(run_dir, 10**9)
        attempts.begin(0, 1)
        attempts.end("failed", 0, "x" * 200)


def test_killed_while_it_writes(tmp_path):
    context = multiprocessing.get_context("fork")
    for _ in range(10):
        process = context.Process(target=_attempts_without_end, args=(tmp_path,))
        process.start()
        size = (tmp_path / "attempts.jsonl").stat().st_size if (tmp_path / "attempts.jsonl").exists() else 0
        while not (tmp_path / "attempts.jsonl").exists() or (tmp_path / "attempts.jsonl").stat().st_size == size:
            time.sleep(0.001)
        process.kill()
        process.join()
    lines = read_attempts(tmp_path)
    begun = [line["attempt"] for line in lines if line["event"] == "begun"]
    assert begun == list(range(1, len(begun) + 1))
    content = (tmp_path / "attempts.jsonl").read_bytes().splitlines()
    assert len(content) - len(lines) <= 10  # at most one torn line a kill
    for line in lines:
        json.dumps(line)


def test_goodput_counts_all_attempts(tmp_path, monkeypatch):
    begun = time.time()
    now = [begun]
    monkeypatch.setattr(time, "time", lambda: now[0])
    Attempts(tmp_path, 3).begin(0, 1)
    now[0] += 100
    later = Attempts(tmp_path, 3)
    later.begin(0, 1)
    assert later.first_begun == begun
    now[0] += 100
    assert later.goodput(150.0) == pytest.approx(0.75)
    assert later.goodput(1e9) == 1.0  # clocks may jump
    assert 0 <= later.goodput(0.0) < 1e-6


def test_what_was_not_begun_does_not_end(tmp_path):
    Attempts(tmp_path, 3).end("hung", 0, "waiting for the other processes")
    assert read_attempts(tmp_path) == []


def test_a_full_disk_is_not_silent(tmp_path):
    (tmp_path / "attempts.jsonl").mkdir()
    with pytest.raises(OSError):
        Attempts(tmp_path, 3).begin(0, 1)
