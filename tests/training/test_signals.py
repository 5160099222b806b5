"""Signals and the time limit become one flag."""

import os
import signal
import threading

import pytest

from adhmr.training.signals import SIGNALS, StopRequest


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
