"""What `adhmr cancel`, `retry` and `logs` do, with stand-ins for Slurm's commands and real local processes."""

import os
import signal
import subprocess
import sys
import time

import pytest
from slurm_shims import Run, Slurm, account_line, queue_line

from adhmr.errors import AdhmrError
from launchers import cancel, retry
from launchers.logs import attempt_line, lines_of, log_file
from launchers.run_status import find_runs, run_status
from launchers.slurm_queue import Queue


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    shims = Slurm(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{shims.folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(cancel, "PAUSE", 0.05)
    return shims


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


def asked_of(slurm: Slurm) -> list[str]:
    """Calls that change something."""
    return [call for call in slurm.calls if call.startswith(("scancel", "scontrol"))]


def test_pending_is_taken_out_of_the_queue(slurm, run):
    slurm.squeue(queue_line(run.folder, "PENDING", "Priority"))
    said = []
    cancel.cancel([run.folder], 0, said.append)
    assert run.launch.cancelled_file.exists()
    assert asked_of(slurm)[0] == "scancel 70"
    assert "taken out of the queue" in said[0]


def test_running_is_asked_first_and_ended_after_the_grace(slurm, run):
    slurm.squeue(queue_line(run.folder, "RUNNING"))
    said = []
    cancel.cancel([run.folder], 0.2, said.append)
    assert asked_of(slurm) == ["scancel --signal=USR2 70", "scancel 70"]
    assert "did not end within" in said[-1]


def test_what_waits_is_cancelled_before_what_runs(slurm, tmp_path):
    first, second = (Run(tmp_path / name) for name in "ab")
    record = (second.launch.job_file).read_text().replace('"70"', '"71"')
    second.launch.job_file.write_text(record)
    slurm.squeue(queue_line(first.folder, "RUNNING"), queue_line(second.folder, "PENDING", "Dependency", job="71"))
    cancel.cancel([first.folder, second.folder], 0, lambda line: None)
    assert asked_of(slurm)[:2] == ["scancel 71", "scancel --signal=USR2 70"]


def test_nothing_to_cancel(slurm, run):
    run.write_stage("done")
    said = []
    cancel.cancel([run.folder], 5, said.append)
    assert (asked_of(slurm), said) == ([], [f"{run.folder}: done already"])
    assert not run.launch.cancelled_file.exists()


def test_array_running_and_waiting(slurm, tmp_path):
    run = Run(tmp_path / "run", array=3)
    lines = [("COMPLETED", "0"), ("RUNNING", "1"), ("PENDING", "2")]
    slurm.squeue(*(queue_line(run.folder, state, task=task) for state, task in lines))
    cancel.cancel([run.folder], 0, lambda line: None)
    assert asked_of(slurm)[:2] == ["scancel 70_2", "scancel --signal=USR2 70_1"]


def test_local_process_is_asked(slurm, tmp_path):
    run = Run(tmp_path / "run", kind="local")
    program = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(85)); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", program, "adhmr", "run", str(run.folder / "config.yaml")])
    try:
        deadline = time.monotonic() + 10
        while run_status(run.folder, Queue()).state != "running" and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)  # its handler
        said = []
        cancel.cancel([run.folder], 0, said.append)
        assert process.wait(10) in (85, -signal.SIGKILL)
        assert str(process.pid) in said[0]
    finally:
        process.kill()
    assert run_status(run.folder, Queue()).state == "cancelled"


def test_run_of_another_machine_is_refused(slurm, tmp_path):
    run = Run(tmp_path / "run", kind="local")
    run.attempt("begun")
    run.heartbeats([2, 2])
    with pytest.raises(AdhmrError, match="it runs on n1,n2"):
        cancel.cancel([run.folder], 0, lambda line: None)


def test_retry_requeues_the_same_job(slurm, run):
    run.cancelled()
    run.event("ended", code=2, decision="stop", reason="why")
    slurm.squeue(queue_line(run.folder, "FAILED", "NonZeroExitCode"))
    run.write_config({"stage": "synth", "output": str(run.folder), "sets": []})
    assert "put back into the queue" in retry.retry(run.folder)
    assert asked_of(slurm) == ["scontrol requeue 70"]
    assert not run.launch.cancelled_file.exists()
    assert run.launch.events()[-1]["event"] == "retried"


def test_retry_of_a_forgotten_job_submits_anew(slurm, run, monkeypatch):
    run.event("ended", code=2, decision="stop", reason="why")
    run.write_config({"stage": "synth", "output": str(run.folder), "sets": []})
    slurm.sacct(account_line(run.folder, "FAILED"))
    monkeypatch.setattr(retry, "submit_again", lambda folder: run.launch.job())
    assert "submitted as job" in retry.retry(run.folder)
    assert asked_of(slurm) == []


@pytest.mark.parametrize("state", ["RUNNING", "PENDING", "COMPLETING"])
def test_retry_refuses_what_goes_on(slurm, run, state):
    slurm.squeue(queue_line(run.folder, state))
    with pytest.raises(AdhmrError, match="expected a run that failed or was cancelled"):
        retry.retry(run.folder)


def test_retry_of_what_was_never_submitted(slurm, tmp_path):
    with pytest.raises(AdhmrError, match="never submitted"):
        retry.retry(tmp_path)


def test_logs_by_attempt(run):
    run.launch.logs.mkdir(parents=True)
    path = run.launch.log(0)
    one, two = (attempt_line(number, "70", "n1") for number in (1, 2))
    path.write_text(f"preamble\n{one}\nfirst\n{two}\nsecond\n")
    assert log_file(run.folder, 0, None, False) == path
    assert "".join(lines_of(path, None, False)) == f"{two}\nsecond\n"
    assert "".join(lines_of(path, 1, False)) == f"{one}\nfirst\n"
    assert "".join(lines_of(path, 0, False)) == path.read_text()
    with pytest.raises(AdhmrError, match="attempts 1, 2"):
        next(lines_of(path, 3, False))
    with pytest.raises(AdhmrError, match=r"there are rank-0\.log"):
        log_file(run.folder, 4, None, False)


def test_follow_goes_on(run):
    run.launch.logs.mkdir(parents=True)
    path = run.launch.log(0)
    path.write_text("old\n")
    lines = lines_of(path, None, True)
    assert next(lines) == "old\n"
    with path.open("a") as file:
        file.write("new\n")
    assert next(lines) == "new\n"


def test_runs_below_a_folder(tmp_path):
    late, early = Run(tmp_path / "pipe" / "a", age=10), Run(tmp_path / "pipe" / "b", age=100)
    Run(tmp_path / "pipe" / "b.previous")
    assert find_runs(tmp_path) == [early.folder, late.folder]
    with pytest.raises(AdhmrError, match="no run"):
        find_runs(tmp_path / "nowhere")
