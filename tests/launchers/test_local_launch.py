"""A submitted stage on this machine: real processes, with a stand-in for the stage."""

import signal
import threading

import pytest
from pydantic import TypeAdapter

from adhmr.config.loading import check_values
from adhmr.config.stages import Stage
from launchers import local, submission
from launchers.cluster import ClusterConfig
from launchers.launch_folder import LaunchFolder
from launchers.stage_record import StageRecord, read_record, write_record
from launchers.submission import submit_config
from tests.launchers.shims import stand_in
from tests.launchers.test_submission import GENERATE, SYNTH, TRAIN

HERE = ClusterConfig(name="here", kind="local", preflight=False, max_failures=2)


@pytest.fixture
def launch(tmp_path, monkeypatch):
    """Runs a stage whose ranks end with these codes in the first attempt, with 0 in the next."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shards").mkdir()
    (tmp_path / "base.safetensors").touch()
    monkeypatch.setattr(local, "PAUSE_SECONDS", 0.0)

    def launch(stage: dict, codes: list[int] | None, again: bool = False, **resources) -> LaunchFolder:
        folder = LaunchFolder(tmp_path / "run")
        real = submission.take_snapshot

        def snapshot(target) -> None:
            real(target)
            stand_in(folder.run_dir, codes)

        monkeypatch.setattr(submission, "take_snapshot", snapshot)
        judge = local.judge

        def judge_and_mend(*arguments):
            (folder.run_dir / "codes").unlink(missing_ok=True)
            return judge(*arguments)

        monkeypatch.setattr(local, "judge", judge if again else judge_and_mend)
        values = {**stage, "output": str(folder.run_dir), "resources": resources}
        config = check_values(values, TypeAdapter(Stage), "test")
        write_record(folder.run_dir, StageRecord("started", "ab-cd"))
        launch.code = submit_config(config, HERE, "run", "ab-cd").code
        return folder

    return launch


def decisions(folder: LaunchFolder) -> list[tuple]:
    return [(line["code"], line["decision"]) for line in folder.events() if line["event"] == "ended"]


def test_started_again_until_done(launch):
    folder = launch(TRAIN, [85, 85], nodes=2)
    assert launch.code == 0
    assert decisions(folder) == [(85, "requeue"), (0, "done")]
    log = folder.log(1).read_text()
    assert f"code of {folder.code}/adhmr/cli/__main__.py" in log and "'RANK': '1', 'WORLD_SIZE': '2'" in log
    assert read_record(folder.run_dir).state == "done"
    assert folder.job().kind == "local"


def test_an_error_of_the_user_ends_it(launch):
    folder = launch(TRAIN, [2])
    assert launch.code == 2
    assert folder.events()[-1]["reason"] == "the stage is wrong"
    assert read_record(folder.run_dir).state == "started"


def test_a_crash_loop_ends_it(launch):
    folder = launch(SYNTH, [1], again=True)
    assert launch.code == 1
    assert decisions(folder) == [(1, "requeue"), (1, "stop")]


def test_workers_of_an_array(launch):
    folder = launch(GENERATE, [0, 85, 0], array=3)
    assert launch.code == 0
    assert [folder.log(worker=worker).exists() for worker in range(3)] == [True] * 3


def test_asked_to_stop(launch, monkeypatch):
    """SIGTERM goes to the ranks, and none is started again."""
    start = local._LocalJob._start_ranks

    def start_and_stop(job, *attempt) -> None:
        start(job, *attempt)
        threading.Timer(0.0, signal.raise_signal, (signal.SIGTERM,)).start()

    monkeypatch.setattr(local._LocalJob, "_start_ranks", start_and_stop)
    folder = launch(TRAIN, [-15], again=True)
    assert launch.code == 85
    assert decisions(folder) == [(85, "requeue")]
