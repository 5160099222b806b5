"""The bar in a pseudo-terminal, the lines elsewhere, and the time that is said to be left."""

import os
import pty
import re
import subprocess
import sys

import pytest

from adhmr.training.progress import ProgressReport
from tests.tiny import REPOSITORY, command_environment

SCRIPT = """
import time
from adhmr.training.progress import ProgressReport
with ProgressReport("base", 200, 100) as progress:
    progress.say("base: going on from step 100")
    for step in range(101, 121):
        time.sleep(0.03)
        progress.update(step, 2.5, 1234.5, 1e-4, logged=step % 10 == 0)
    progress.rewind(110)
    for step in range(111, 118):
        time.sleep(0.03)
        progress.update(step, 0.5, 20.0, 1e-4, logged=False)
    print("a stray line")
"""


def on_a_terminal(script: str, columns: int) -> str:
    """What a terminal shows, escapes taken out."""
    main, side = pty.openpty()
    environment = {**command_environment(), "TERM": "xterm-256color", "COLUMNS": str(columns)}
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=REPOSITORY, env=environment, stdout=side, stderr=side, stdin=side
    )
    os.close(side)
    shown = b""
    try:
        while part := os.read(main, 65536):
            shown += part
    except OSError:  # the other side is closed
        pass
    os.close(main)
    assert process.wait() == 0
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()).replace("\r", "\n")


@pytest.mark.parametrize("columns", [60, 120])
def test_the_bar_shows_step_loss_rate_and_time_left(columns):
    lines = on_a_terminal(SCRIPT, columns).splitlines()
    assert "base: going on from step 100" in lines and "a stray line" in lines
    bars = [line for line in lines if line.startswith("base ━")]
    assert max(map(len, bars)) <= columns
    assert re.search(r"━ +117/200 +loss 0\.5 +20 samples/s +0:00:0\d left", bars[-1])
    assert any(re.search(r"loss 2\.5 +1234 samples/s", bar) for bar in bars)


def test_lines_elsewhere(capsys):
    with ProgressReport("base", 200, 100) as progress:
        for step in range(101, 121):
            progress.update(step, 2.5, 1234.5, 1e-4, logged=step % 10 == 0)
    with ProgressReport("base", 200, 100, active=False) as progress:
        progress.say("of another rank")
        progress.update(101, 2.5, 1234.5, 1e-4, logged=True)
    first, second = capsys.readouterr().out.splitlines()
    assert first == "base: step 110/200  loss 2.5  1234 samples/s  lr 0.0001  0:00:00 left"
    assert second.startswith("base: step 120/200")


def test_time_left_is_by_the_pace_of_this_process_without_its_first_step(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("adhmr.training.progress.time.monotonic", lambda: now[0])
    progress = ProgressReport("base", 100_000, 40_000)

    def step(number: int, seconds: float) -> str:
        now[0] += seconds
        progress.update(number, 1.0, 10.0, 1e-4, logged=True)
        return capsys.readouterr().out.split("  ")[-1].strip()

    assert step(40_001, 300) == "- left"  # a compiler at work
    assert step(40_002, 2) == "1d 9:19:56 left"  # 59,998 steps of 2 s
    assert step(40_003, 4) == "2d 1:59:51 left"
    progress.rewind(39_000)
    assert step(39_001, 60) == "- left"
    assert step(39_002, 1) == "16:56:38 left"
