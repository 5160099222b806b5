"""Training on two nodes of a real Slurm cluster that is stopped in the middle: by the time limit's signal, by a more
important job, by `scontrol requeue`, by a rank that dies or hangs. It ends with the weights of a quiet run."""

import ctypes
import os
import signal

import pytest

from tests.distributed.launch import train_stage
from tests.slurm.local_cluster import wait_for
from tests.slurm.training_run import assert_same_run, stage_of

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def test_two_nodes_train_as_two_processes_here(quiet, studio_set, tiny_weights, tmp_path):
    for strategy in ("ddp", "zero2"):
        assert quiet[strategy].nodes() in (["n1", "n2"], ["n3", "n4"])
        assert quiet[strategy].ends() == ["done"]
    here = stage_of(studio_set, tiny_weights, tmp_path / "here")
    assert train_stage(here, 2) == [0, 0]
    assert_same_run(tmp_path / "here", quiet["ddp"].output)


def test_signal_of_the_time_limit(quiet, make_run):
    """What Slurm sends `signal_seconds` before the limit."""
    run = make_run("zero2")
    run.wait_step()
    run.cluster.run("scancel", "--signal", "USR2", run.job)
    run.wait_done()
    assert run.ends() == ["requeue", "done"] and len(run.attempts()) == 2
    assert run.attempts()[1]["step"] > 0
    assert_same_run(run.output, quiet["zero2"].output)


def test_preempted(quiet, make_run, tmp_path):
    run = make_run("ddp", profile={"partition": "low"})
    run.wait_step()
    urgent = run.cluster.sbatch("sleep 2", "--partition=high", "--nodes=4", "--exclusive", folder=tmp_path)
    run.cluster.wait_state(urgent, "COMPLETED")
    run.wait_done()
    assert len(run.attempts()) == 2 and run.cluster.job(run.job)["Restarts"] == "1"
    assert_same_run(run.output, quiet["ddp"].output)


def test_requeued_by_hand(quiet, make_run):
    run = make_run("zero2")
    run.wait_step()
    run.cluster.run("scontrol", "requeue", run.job)
    run.wait_done()
    assert len(run.attempts()) == 2
    assert_same_run(run.output, quiet["zero2"].output)


@pytest.mark.parametrize("victim", [0, 1])
def test_rank_is_killed(victim, quiet, make_run):
    run = make_run("ddp")
    run.wait_step()
    os.kill(run.rank(run.nodes()[victim]), signal.SIGKILL)
    run.wait_done()
    assert run.ends() == ["requeue", "done"] and len(run.attempts()) == 2
    assert_same_run(run.output, quiet["ddp"].output)


def test_time_is_over_while_a_rank_hangs(quiet, make_run):
    """The one real time-out: nobody answers the signal, Slurm ends the job, and it is requeued all the same."""
    run = make_run("ddp", profile={"signal_seconds": 20}, time_minutes=1)
    run.wait_step()
    hang(run.rank(run.nodes()[1]), 150)
    run.wait_done()
    assert len(run.attempts()) == 2 and run.attempts()[1]["step"] > 0
    assert_same_run(run.output, quiet["ddp"].output)


PTRACE_SEIZE, PTRACE_INTERRUPT, WALL = 0x4206, 0x4207, 0x40000000  # of Linux


def hang(pid: int, seconds: float) -> None:
    """Its main thread stands still, for SIGCONT too, until someone kills the process; returns then."""
    trace = ctypes.CDLL(None, use_errno=True).ptrace
    for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
        assert trace(request, pid, None, None) == 0, os.strerror(ctypes.get_errno())

    def killed() -> bool:
        found, status = os.waitpid(pid, WALL | os.WNOHANG)
        return bool(found) and os.WIFSIGNALED(status)

    wait_for("end of the hanging rank", killed, seconds)
