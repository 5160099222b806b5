"""metrics.jsonl over restarts, and the real wandb package offline."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adhmr.config.training import TrackingConfig
from adhmr.training.tracking import Tracker, read_metrics
from tests.tiny import REPOSITORY, command_environment


def test_one_line_a_step_over_restarts(tmp_path):
    with Tracker(tmp_path, TrackingConfig(), 0, {}) as tracker:
        for step in (5, 10, 15):
            tracker.write(step, {"loss": float(step)})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 20, "lo')  # died while writing
    with Tracker(tmp_path, TrackingConfig(), 12, {}) as tracker:
        tracker.write(15, {"loss": -15.0})
        assert read_metrics(tmp_path)[-1] == {"step": 15, "loss": -15.0}  # readable while the run is on
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == [(5, 5.0), (10, 10.0), (15, -15.0)]


def test_a_new_start_empties_the_file_and_other_ranks_write_nothing(tmp_path):
    with Tracker(tmp_path, TrackingConfig(), 0, {}) as tracker:
        tracker.write(5, {"loss": 1.0})
    with Tracker(tmp_path, TrackingConfig(wandb="offline"), 0, {}, active=False) as tracker:
        tracker.write(6, {"loss": 1.0})
    assert [line["step"] for line in read_metrics(tmp_path)] == [5]
    with Tracker(tmp_path, TrackingConfig(), 0, {}):
        pass
    assert read_metrics(tmp_path) == []


def test_going_back_cuts_the_later_lines(tmp_path):
    with Tracker(tmp_path, TrackingConfig(), 0, {}) as tracker:
        for step in (5, 10, 15):
            tracker.write(step, {"loss": float(step)})
        tracker.rewind(7)
        assert [line["step"] for line in read_metrics(tmp_path)] == [5]
        tracker.write(10, {"loss": -10.0})
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == [(5, 5.0), (10, -10.0)]


# ------------------------------------------------------------------------------------------------ wandb, the package
ATTEMPT = """
import json, sys
from pathlib import Path
from adhmr.config.training import TrackingConfig
from adhmr.training.tracking import Tracker

config = TrackingConfig(wandb="offline", project="toy", name="first-try", tags=["test"])
with Tracker(Path(sys.argv[1]), config, int(sys.argv[2]), {"model": {"width": 3}}) as tracker:
    for step in json.loads(sys.argv[3]):
        if step < 0:
            tracker.rewind(-step)
        else:
            tracker.write(step, {"loss": step / 10, "evaluation/error": 2.0})
"""


def attempt(run_dir: Path, resume_step: int, steps: list[int]) -> None:
    """A process that goes on from `resume_step` and logs `steps`; a negative one is a rewind to it."""
    environment = {**command_environment(), "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    line = [sys.executable, "-c", ATTEMPT, str(run_dir), str(resume_step), json.dumps(steps)]
    subprocess.run(line, cwd=REPOSITORY, env=environment, check=True)


def offline_runs(run_dir: Path) -> list[list[dict]]:
    """What wandb itself reads from the files that it wrote: the records of each process, oldest first."""
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json"]
    found = []
    for folder in sorted((run_dir / "wandb").glob("offline-run-*")):
        printed = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=True).stdout
        found.append([json.loads(line) for line in printed.splitlines()])
    return found


def of_kind(records: list[dict], kind: str) -> list[dict]:
    return [record[kind] for record in records if record["type"] == kind]


@pytest.mark.slow
def test_wandb_offline_over_a_restart_and_a_rewind(tmp_path):
    attempt(tmp_path, 0, [5, 10, 15])
    time.sleep(1)  # its folders are named by the second
    attempt(tmp_path, 10, [15, 20, 25, -15, 20])
    processes = offline_runs(tmp_path)
    assert len(processes) == 2
    for records in processes:
        (run,) = of_kind(records, "run")
        assert run["run_id"] == (tmp_path / "wandb_id").read_text()
        assert run["resume"]  # `wandb sync` puts the second behind the first
        assert (run["project"], run["display_name"], run["tags"]) == ("toy", "first-try", ["test"])
        assert run["config"]["update"]["model"] == {"width": 3}
        metrics = of_kind(records, "metric")
        assert {"glob_name": "*", "step_metric": "step"}.items() <= metrics[1].items()
        assert [record["exit_code"] for record in of_kind(records, "exit")] == [0]
    rows = [[row["item"] for row in of_kind(records, "history")] for records in processes]
    assert [[row["step"] for row in of_process] for of_process in rows] == [[5, 10, 15], [15, 20, 25, 20]]
    for of_process in rows:
        assert [row["_step"] for row in of_process] == list(range(len(of_process)))  # grows: wandb drops no line
        assert all(row["loss"] == row["step"] / 10 and row["evaluation/error"] == 2.0 for row in of_process)
    assert [line["step"] for line in read_metrics(tmp_path)] == [5, 10, 15, 20]


@pytest.mark.slow
def test_the_run_goes_on_when_the_service_of_wandb_dies(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_MODE", "offline")
    with Tracker(tmp_path, TrackingConfig(wandb="offline"), 0, {}) as tracker:
        tracker.write(5, {"loss": 1.0})
        for service in children("wandb-core"):
            os.kill(service, signal.SIGTERM)  # as SLURM does to all processes of a step
        time.sleep(0.5)
        for step in (10, 15):
            tracker.write(step, {"loss": 1.0})
    assert [line["step"] for line in read_metrics(tmp_path)] == [5, 10, 15]
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("tracking.wandb")]
    assert len(said) == 1 and "going on without" in said[0]


def test_without_an_answer_from_the_server_the_run_is_offline(tmp_path, monkeypatch, capsys):
    import wandb

    asked = []

    class Run:
        def define_metric(self, *arguments, **options):
            pass

        def log(self, line):
            asked.append(line)

        def finish(self, exit_code):
            asked.append(exit_code)

    def init(mode, resume, **options):
        asked.append(mode)
        assert resume == "allow"
        if mode == "online":
            raise wandb.errors.CommError("nobody answers")
        return Run()

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(wandb, "teardown", lambda: None)
    with Tracker(tmp_path, TrackingConfig(wandb="online"), 0, {}) as tracker:
        tracker.write(5, {"loss": 1.0})
    assert asked == ["online", "offline", {"step": 5, "loss": 1.0}, 0]
    assert "online does not work here (CommError: nobody answers)" in capsys.readouterr().err


def children(name: str) -> list[int]:
    """Ids of this process's children whose command holds `name`."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rsplit(")", 1)[1].split()[1])
            if parent == os.getpid() and name in (status.parent / "cmdline").read_text():
                found.append(int(status.parent.name))
        except OSError:  # it has ended
            continue
    return found
