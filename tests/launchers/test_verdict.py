"""What follows from the end of an attempt, without processes and without SLURM."""

import pytest

from launchers.task_ends import TaskEnd, code_of
from launchers.verdict import judge


def codes(*values: int) -> list[TaskEnd]:
    return [TaskEnd(rank, f"n{rank}", code) for rank, code in enumerate(values)]


@pytest.mark.parametrize(
    "ends, ranks, told, code",
    [
        (codes(0, 0), 2, 0, 0),
        (codes(85, 85), 2, 85, 85),
        (codes(140, 143), 2, 143, 85),  # asked to stop before the handlers were there
        (codes(143), 2, 137, 137),  # the other rank was killed before it could say anything
        (codes(1, 143), 2, 143, 1),
        (codes(143, 2), 2, 143, 2),
        (codes(87, 143), 2, 143, 87),
        (codes(86, 1), 2, 86, 86),
        ([], 2, 1, 1),
    ],
)
def test_code_of_an_attempt(ends, ranks, told, code):
    assert code_of(ends, ranks, told) == code


def started() -> dict:
    return {"event": "started"}


def ended(progress: int, failed: bool = True) -> dict:
    return {"event": "ended", "progress": progress, "failed": failed}


@pytest.mark.parametrize(
    "history, progress, decision",
    [
        ([started()], 0, "requeue"),
        ([started(), ended(0), started()], 0, "requeue"),
        ([started(), ended(0), started(), ended(0), started()], 0, "stop"),
        ([started(), ended(0), started(), ended(0), started()], 1, "requeue"),  # something was finished since
        ([started(), ended(0), started(), ended(0, failed=False), started()], 0, "requeue"),
        ([started(), ended(0), started(), started(), ended(0), started()], 0, "stop"),  # one was preempted in between
    ],
)
def test_crash_loop(history, progress, decision):
    assert judge(1, "", False, history, progress, (3, None)).decision == decision


def test_leaving_is_no_failure():
    history = [started(), ended(0, failed=False)] * 9 + [started()]
    assert judge(85, "SIGUSR2", False, history, 0, (3, None)).reason == "saved and left, to go on: SIGUSR2"
    assert judge(85, "", False, history, 0, (3, 9)).decision == "stop"


def test_too_little_time_is_one():
    history = [started(), ended(0), started(), ended(0), started()]
    assert judge(85, "", False, history, 0, (3, None), in_vain=True).decision == "stop"
    assert judge(85, "", False, history[:3], 0, (3, None), in_vain=True).decision == "requeue"


def test_done_although_cancelled_meanwhile():
    assert judge(0, "", True, [started()], 0, (3, None)).decision == "done"
    assert judge(85, "", True, [started()], 0, (3, None)).decision == "stop"
