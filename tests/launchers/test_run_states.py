"""(squeue's answer, sacct's answer, files of the run folder) -> state: the table of docs/slurm.md, with stand-ins."""

import os
import time

import pytest
from slurm_shims import Run, Slurm, account_line, queue_line

from launchers.run_status import run_status, statuses
from launchers.slurm_queue import Queue


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    shims = Slurm(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{shims.folder}{os.pathsep}{os.environ['PATH']}")
    return shims


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "runs" / "base")


def stage_done(run):
    run.write_stage("done")


def done_of_another(run):
    run.write_stage("done", "x-y")


def alive(run):
    run.attempt("begun")
    run.heartbeats([3, 4])


def silent(run):
    run.attempt("begun", age=900)
    run.heartbeats([500, 4])


def silent_all(run):
    run.attempt("begun", age=900)
    run.heartbeats([500, 500])


def started_before(run):
    run.event("started", attempt=1)
    run.event("ended", code=85, decision="requeue", reason="time limit")


def stopped(run):
    run.event("started", attempt=1)
    run.event("ended", code=2, decision="stop", reason="data: no such folder")


def bad_node(run):
    run.event("started", attempt=1)
    run.event("ended", code=87, decision="exclude", reason="n2: no GPU")


def left(run):
    run.attempt("begun")
    run.attempt("ended", outcome="left", reason="SIGTERM")


def nothing(run):
    pass


ABSENT: tuple = ()
NO_ANSWER = None


def q(state, reason="None", **more):
    return ((state, reason, more),)


def a(state, **more):
    return ((state, more),)


# name: squeue, sacct, files, state, what the reason holds
TABLE = {
    # Slurm's controller knows the job
    "new": (q("PENDING", "Priority"), ABSENT, nothing, "pending", "Priority"),
    "new, sacct down": (q("PENDING", "Resources"), NO_ANSWER, nothing, "pending", "Resources"),
    "waits for another job": (q("PENDING", "Dependency"), a("PENDING"), nothing, "pending", "Dependency"),
    "waits for ever": (q("PENDING", "DependencyNeverSatisfied"), a("PENDING"), nothing, "blocked", "never start"),
    "held": (q("PENDING", "JobHeldUser"), a("PENDING"), nothing, "held", "scontrol release 70"),
    "requeued and held": (q("PENDING", "job_requeued_in_held_state"), ABSENT, bad_node, "held", "release"),
    "requeue hold": (q("REQUEUE_HOLD"), ABSENT, nothing, "held", "release"),
    "requeued": (q("PENDING", "BeginTime"), a("PENDING"), started_before, "requeued", "time limit; BeginTime"),
    "requeued, sacct says NODE_FAIL": (q("PENDING", "BeginTime"), a("NODE_FAIL"), alive, "requeued", "BeginTime"),
    "requeued, sacct says FAILED": (q("PENDING", "BeginTime"), a("FAILED"), started_before, "requeued", ""),
    "requeued word": (q("REQUEUED"), a("REQUEUED"), started_before, "requeued", ""),
    "nodes boot": (q("CONFIGURING"), ABSENT, nothing, "pending", "prepared"),
    "running": (q("RUNNING"), a("RUNNING"), alive, "running", ""),
    "running, sacct late": (q("RUNNING"), a("PENDING"), alive, "running", ""),
    "running, sacct still has the end before": (q("RUNNING"), a("NODE_FAIL"), alive, "running", ""),
    "running, sacct down": (q("RUNNING"), NO_ANSWER, alive, "running", ""),
    "starts": (q("RUNNING"), a("RUNNING"), nothing, "running", "starting"),
    "running, a rank is silent": (q("RUNNING", started=950), a("RUNNING"), silent, "running", "of rank 0 (n1)"),
    "suspended": (q("SUSPENDED"), ABSENT, alive, "suspended", ""),
    "completing": (q("COMPLETING"), ABSENT, alive, "ending", ""),
    "done, teardown runs": (q("RUNNING"), a("RUNNING"), stage_done, "done", ""),
    "done": (q("COMPLETED"), a("COMPLETED"), stage_done, "done", ""),
    "done of another configuration": (q("PENDING", "Priority"), ABSENT, done_of_another, "pending", "Priority"),
    "completed, folder not done": (q("COMPLETED"), a("COMPLETED"), left, "unknown", "stage.json"),
    "the user must act": (q("FAILED", "NonZeroExitCode"), a("FAILED"), stopped, "failed", "no such folder"),
    "failed before step_begin": (q("FAILED", "NonZeroExitCode"), a("FAILED"), nothing, "failed", "NonZeroExitCode"),
    "requeue was refused": (q("FAILED", "NonZeroExitCode"), a("FAILED"), started_before, "failed", "asked to be"),
    "time limit, not saved": (q("TIMEOUT", "TimeLimit"), a("TIMEOUT"), alive, "failed", "time limit"),
    "out of memory": (q("OUT_OF_MEMORY"), ABSENT, alive, "failed", "OUT_OF_MEMORY"),
    "scancel": (q("CANCELLED"), a("CANCELLED"), alive, "cancelled", "scancel"),
    "preempted and cancelled": (q("PREEMPTED"), a("PREEMPTED"), alive, "preempted", "retry"),
    "node failed just now": (q("NODE_FAIL", ended=1), a("NODE_FAIL", ended=1), alive, "unknown", "moment"),
    "node failed, no requeue": (q("NODE_FAIL"), a("NODE_FAIL"), alive, "failed", "NODE_FAIL"),
    "a word of a later Slurm": (q("TELEPORTED"), ABSENT, alive, "unknown", "TELEPORTED"),
    # the controller has forgotten it, or never knew it
    "forgotten, done": (ABSENT, a("COMPLETED"), stage_done, "done", ""),
    "forgotten, failed": (ABSENT, a("FAILED"), stopped, "failed", "no such folder"),
    "forgotten, killed": (ABSENT, a("FAILED", code="0:9"), alive, "failed", "exit code 0:9"),
    "forgotten, cancelled": (ABSENT, a("CANCELLED"), alive, "cancelled", "scancel"),
    "forgotten, node failed long ago": (ABSENT, a("NODE_FAIL"), silent_all, "failed", "NODE_FAIL"),
    "forgotten, node failed now": (ABSENT, a("NODE_FAIL", ended=2), alive, "unknown", "moment"),
    "sacct says it runs": (ABSENT, a("RUNNING", ended=None), silent_all, "unknown", "squeue does not know"),
    "sacct says it runs, and it does": (ABSENT, a("RUNNING", ended=None), alive, "unknown", "writes heartbeats"),
    "vanished": (ABSENT, ABSENT, silent_all, "unknown", "knows no job 70"),
    "vanished, its files tell": (ABSENT, ABSENT, stopped, "failed", "no such folder"),
    "vanished, done": (ABSENT, ABSENT, stage_done, "done", ""),
    "vanished, heartbeats": (ABSENT, ABSENT, alive, "running", "by its heartbeats"),
    "vanished, sacct down": (ABSENT, NO_ANSWER, silent_all, "unknown", "down"),
    # squeue does not answer
    "no answers": (NO_ANSWER, NO_ANSWER, silent_all, "unknown", "down"),
    "no answers, done": (NO_ANSWER, NO_ANSWER, stage_done, "done", ""),
    "no answers, heartbeats": (NO_ANSWER, NO_ANSWER, alive, "running", "by its heartbeats"),
    "only sacct, failed": (NO_ANSWER, a("FAILED"), silent_all, "unknown", "sacct's last word is FAILED"),
    "only sacct, runs": (NO_ANSWER, a("RUNNING"), silent_all, "unknown", "sacct's last word is RUNNING"),
    # another job of that number: a cluster that was set up anew
    "another's, running": (q("RUNNING", script="/other/run/x.sh"), ABSENT, silent_all, "unknown", "another run's"),
    "another's, failed": (q("FAILED", script="/other/run/x.sh"), a("FAILED", script="/other/run/x.sh"), silent_all,
                          "unknown", "another run's"),
    "another's in sacct": (ABSENT, a("COMPLETED", script="/other/run/x.sh"), silent_all, "unknown", "another run's"),
    "an older job of that number": (ABSENT, a("FAILED", age=5000), silent_all, "unknown", "another run's"),
    "another's, ours is done": (q("RUNNING", script="/other/run/x.sh"), ABSENT, stage_done, "done", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_table(slurm, run, case):
    queued, accounted, files, state, reason = TABLE[case]
    files(run)
    if queued is None:
        slurm.fail("squeue", "slurm_load_jobs error: the controller is down")
    else:
        slurm.squeue(*(queue_line(run.folder, word, why, **more) for word, why, more in queued))
    if accounted is None:
        slurm.fail("sacct", "sacct: error: the database is down")
    else:
        slurm.sacct(*(account_line(run.folder, word, **more) for word, more in accounted))
    status = run_status(run.folder, Queue())
    assert status.state == state, status.reason
    assert reason in status.reason


def test_job_that_slurm_does_not_know_yet(slurm, tmp_path):
    slurm.fail("squeue", "slurm_load_jobs error: Invalid job id specified")
    status = run_status(Run(tmp_path / "run", age=1).folder, Queue())
    assert (status.state, status.reason) == ("unknown", "Slurm does not know job 70 yet")


def test_no_slurm_on_this_machine(run, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    status = run_status(run.folder, Queue())
    assert status.state == "unknown"
    assert "squeue is not on this machine" in status.reason


def test_events_of_a_former_submission_do_not_count(slurm, run):
    run.launch.append_event(None, event="ended", submission="former", code=2, decision="stop", reason="old")
    slurm.squeue(queue_line(run.folder, "FAILED", "NonZeroExitCode"))
    assert "old" not in run_status(run.folder, Queue()).reason


@pytest.mark.parametrize("word, state", [("RUNNING", "ending"), ("FAILED", "cancelled"), ("CANCELLED", "cancelled")])
def test_cancelled_by_us(slurm, run, word, state):
    alive(run)
    run.cancelled()
    slurm.squeue(queue_line(run.folder, word))
    assert run_status(run.folder, Queue()).state == state


def test_array(slurm, tmp_path):
    run = Run(tmp_path / "run", array=5)
    run.write_config({"stage": "generate"})
    slurm.squeue(
        queue_line(run.folder, "COMPLETED", task="0"),
        queue_line(run.folder, "RUNNING", task="1"),
        queue_line(run.folder, "PENDING", "BeginTime", task="2", nodes=""),
    )
    slurm.sacct(account_line(run.folder, "FAILED", job="70_3"), account_line(run.folder, "PENDING", job="70_[4]"))
    status = run_status(run.folder, Queue())
    assert status.state == "running"
    assert "1 running, 1 pending, 1 unknown, 1 failed, 1 done" in status.reason
    slurm.squeue()
    slurm.sacct(account_line(run.folder, "FAILED", job="70_[0-2,4%2]"), account_line(run.folder, "FAILED", job="70_3"))
    assert "5 failed" in run_status(run.folder, Queue()).reason
    slurm.sacct(account_line(run.folder, "COMPLETED", job="70_[0-4]"))
    status = run_status(run.folder, Queue())
    assert (status.state, "stage.json" in status.reason) == ("unknown", True)
    slurm.sacct(account_line(run.folder, "FAILED", job="70_[0-2,4%2]"), account_line(run.folder, "FAILED", job="70_3"))
    assert "5 failed" in run_status(run.folder, Queue()).reason


def test_one_call_each_for_all_runs(slurm, tmp_path):
    runs = [Run(tmp_path / name).folder for name in "ab"]
    slurm.squeue(queue_line(runs[0], "RUNNING"))
    assert [status.state for status in statuses(runs, Queue())] == ["running", "unknown"]
    assert [call.split()[0] for call in slurm.calls] == ["squeue", "sacct"]


LOCAL = {
    "nothing": (nothing, "unknown", "no process"),
    "alive": (alive, "running", ""),
    "silent": (silent_all, "unknown", "elsewhere"),
    "left": (left, "stopped", "SIGTERM"),
    "done": (stage_done, "done", ""),
    "must act": (stopped, "failed", "no such folder"),
}


@pytest.mark.parametrize("case", LOCAL)
def test_without_slurm(slurm, tmp_path, case):
    files, state, reason = LOCAL[case]
    run = Run(tmp_path / "run", kind="local")
    files(run)
    status = run_status(run.folder, Queue())
    assert (status.state, slurm.calls) == (state, [])
    assert reason in status.reason


def test_killed_here(slurm, tmp_path):
    run = Run(tmp_path / "run", kind="local")
    run.attempt("begun", host=os.uname().nodename, pid=2**22 + 1)
    run.heartbeats([1, 1])  # just written: but the process is not there
    status = run_status(run.folder, Queue())
    assert (status.state, "killed" in status.reason) == ("failed", True)
    run.attempt("begun", attempt=2, age=0, host=os.uname().nodename, pid=os.getpid())
    assert run_status(run.folder, Queue()).state == "running"
    run.attempt("begun", attempt=3, age=10**9, host=os.uname().nodename, pid=os.getpid())  # of another process then
    assert run_status(run.folder, Queue()).state == "failed"


def test_progress_and_eta_of_this_attempt(slurm, run):
    slurm.squeue(queue_line(run.folder, "RUNNING"))
    run.attempt("begun", age=1000)
    run.attempt("begun", attempt=2, step=20, age=100)
    slow = {"step": 20, "elapsed": 1000.0, "loss": 9.0, "samples_per_s": 1.0}
    run.metrics(slow, *({"step": s, "elapsed": 1000.0 + s, "loss": 2.5, "samples_per_s": 8.0} for s in (30, 40, 50)))
    run.heartbeats([2, 2], step=55)
    status = run_status(run.folder, Queue())
    assert (status.step, status.steps, status.loss, status.samples_per_s) == (55, 100, 2.5, 8.0)
    assert status.eta_seconds == pytest.approx(45.0)
    assert (status.nodes, status.restarts, status.job) == ("n[1-2]", 1, "70")


def test_watching_is_quick_with_many_runs(slurm, tmp_path):
    runs = [Run(tmp_path / str(number)).folder for number in range(50)]
    begun = time.perf_counter()
    statuses(runs, Queue())
    assert time.perf_counter() - begun < 5
