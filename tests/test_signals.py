"""Signals, the time limit and the job's end become one flag."""

import os
import signal
import threading
import time

import pytest

from adhmr.errors import AdhmrError
from adhmr.signals import SIGNALS, StopRequest


@pytest.fixture(autouse=True)
def no_job(monkeypatch):
    for name in ("ADHMR_JOB_END", "SLURM_JOB_END_TIME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_is_noted_and_the_former_handler_put_back(number):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert stop.reason is None
        os.kill(os.getpid(), number)
        assert stop.reason == number.name
    assert signal.getsignal(number) == before


def test_second_interrupt_leaves_at_once():
    with StopRequest(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_time_limit():
    assert StopRequest(max_seconds=3600).reason is None
    assert StopRequest(max_seconds=-1).reason == "train.max_seconds"


def test_other_threads_may_train():
    seen = []

    def work():
        with StopRequest() as stop:
            seen.append(stop.reason)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]


def ends_in(monkeypatch, seconds, name="ADHMR_JOB_END"):
    monkeypatch.setenv(name, str(time.time() + seconds))


@pytest.mark.parametrize("name", ["ADHMR_JOB_END", "SLURM_JOB_END_TIME"])
def test_the_jobs_end_is_watched(name, monkeypatch):
    ends_in(monkeypatch, 1.0, name)
    stop = StopRequest(margin=0.4)
    assert stop.reason is None
    time.sleep(0.7)
    assert stop.reason == "the job ends in 0 s"
    time.sleep(0.5)
    assert stop.reason == "the job ends in 0 s"


def test_our_launchers_word_counts_more_than_slurms(monkeypatch):
    ends_in(monkeypatch, 1000)
    ends_in(monkeypatch, 0.01, "SLURM_JOB_END_TIME")
    stop = StopRequest(margin=10)
    time.sleep(0.02)
    assert stop.reason is None


def test_a_wider_margin_leaves_earlier(monkeypatch):
    ends_in(monkeypatch, 1000)
    stop = StopRequest(margin=10)
    clock, begun = time.monotonic, time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: clock() + 900)
    assert stop.reason is None
    stop.widen(5)
    assert stop.reason is None
    stop.widen(300)
    assert stop.reason in ("the job ends in 100 s", "the job ends in 99 s")
    monkeypatch.setattr(time, "monotonic", lambda: begun + 450)
    stop.widen(10**6)
    assert stop.reason is None  # half of the job is for training


def test_a_signal_counts_more_than_the_jobs_end(monkeypatch):
    ends_in(monkeypatch, 0.01)
    with StopRequest() as stop:
        time.sleep(0.02)
        assert stop.reason == "the job ends in 0 s"
        signal.raise_signal(signal.SIGUSR2)
        assert stop.reason == "SIGUSR2"


@pytest.mark.parametrize("told", ["", "UNLIMITED", "nan", "1000000000", "inf"])
def test_no_end_or_a_past_one_never_stops(told, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_END_TIME", told)
    assert StopRequest().reason is None


def test_a_wrong_end_of_ours_is_an_error(monkeypatch):
    monkeypatch.setenv("ADHMR_JOB_END", "tomorrow")
    with pytest.raises(AdhmrError, match=r"ADHMR_JOB_END: 'tomorrow'"):
        StopRequest()
