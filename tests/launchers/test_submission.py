"""From `adhmr submit` to the end of the job, on an imaginary cluster: stand-ins for SLURM's commands, real scripts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from adhmr.errors import AdhmrError
from launchers.cluster import load_cluster
from launchers.launch_folder import LaunchFolder
from launchers.submission import submit
from tests.launchers.shims import Shims, copy_packages, stand_in, write_profile

SYNTH = {"stage": "synth", "sets": [{"name": "synth-studio", "count": 5}]}
TRAIN = {
    "stage": "base",
    "data": {"sets": [{"path": "shards"}], "crop": {"size": 64}},
    "base": "base.safetensors",
    "optim": {},
    "train": {"steps": 10, "global_batch": 8},
}
SETS = [{"path": "shards", "rankings": ["random"]}]
GENERATE = {"stage": "generate", "base": "base.safetensors", "sets": SETS, "crop": {}}


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Shims:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shards").mkdir()
    (tmp_path / "base.safetensors").touch()
    return Shims(tmp_path / "slurm", monkeypatch)


@pytest.fixture
def send(slurm, tmp_path):
    """Submits a stage to the folder `a run`; returns that."""

    def send(stage: dict = SYNTH, *overrides: str, dry_run: bool = False, after: tuple[str, ...] = (), **profile):
        cluster = load_cluster(str(write_profile(tmp_path / "site.yaml", **profile)))
        run_dir = tmp_path / "a run"
        (tmp_path / "stage.yaml").write_text(yaml.safe_dump({**stage, "output": str(run_dir)}))
        return submit(tmp_path / "stage.yaml", cluster, overrides, after=after, dry_run=dry_run)

    return send


def ends(run_dir: Path, worker: int | None = None) -> list[tuple]:
    lines = LaunchFolder(run_dir).events(worker)
    return [(line["code"], line["decision"]) for line in lines if line["event"] == "ended"]


def test_what_sbatch_gets(slurm, send):
    asked = send(
        TRAIN,
        "resources.nodes=2",
        account="vision",
        gpus_per_node=4,
        cpus_per_task=6,
        memory_gb=100,
        modules=["cuda/12"],
        environment={"NCCL_DEBUG": "two words"},
        container="apptainer exec image.sif",
        sbatch_options={"reservation": "night", "exclusive": True},
        after=("7", "8"),
    )
    script = slurm.submitted()[0]["script"]
    lines = script.splitlines()
    for option in (
        "account=vision", "nodes=2", "ntasks-per-node=4", "gpus-per-node=4", "cpus-per-task=6", "mem=102400M",
        "time=60", "requeue",
        "open-mode=append", "signal=USR2@120", "dependency=afterok:7:8", "kill-on-invalid-dep=yes",
        "reservation=night", "exclusive", "partition=debug", f"output='{asked.run_dir}/launch/logs/batch.log'",
    ):  # fmt: skip
        assert f"#SBATCH --{option}" in lines
    assert "module load cuda/12" in lines and "export NCCL_DEBUG='two words'" in lines
    srun = next(line for line in lines if line.startswith("srun"))
    assert "--kill-on-bad-exit=1" in srun and "--cpus-per-task=6" in srun and "apptainer exec image.sif" in srun
    assert script == asked.script == LaunchFolder(asked.run_dir).script.read_text()
    job = LaunchFolder(asked.run_dir).job()
    assert (job.job_id, job.nodes, job.tasks_per_node, job.after, job.cluster) == ("1000", 2, 4, ["7", "8"], "site")


def test_a_dry_run_writes_nothing(slurm, send, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    assert "step_begin" in send(dry_run=True).script
    assert not slurm.submitted()
    assert {path.name for path in set(tmp_path.rglob("*")) - set(before)} == {"site.yaml", "stage.yaml"}


@pytest.mark.parametrize(
    "stage, overrides, profile, message",
    [
        (SYNTH, [], {"partition": "debgu"}, "SLURM has none of that name; did you mean debug"),
        (SYNTH, ["resources.time_minutes=121"], {}, "more than the 120 that partition debug"),
        (TRAIN, ["resources.nodes=4"], {}, "partition debug has 3 nodes"),
        (TRAIN, ["resources.nodes=3"], {}, "8 is not a multiple of 3 processes"),
        (TRAIN, ["resources.gpus_per_node=2"], {}, "a node of cluster site has 0"),
        (TRAIN, ["base=elsewhere.safetensors"], {}, "base: elsewhere.safetensors does not exist"),
        (SYNTH, ["resources.time_minutes=4"], {}, "less than half"),
        (SYNTH, ["output=a%b"], {}, "'%' in the path"),
        (SYNTH, ["output=base.safetensors/x"], {}, "no folder that you can write to"),
        (SYNTH, ["resources.nodes=2"], {}, "nodes and tasks_per_node are for stages that train"),
        (SYNTH, ["resources.array=2"], {}, "resources.array is for stage generate"),
    ],
)
def test_refused_before_anything_is_queued(slurm, send, stage, overrides, profile, message):
    with pytest.raises(AdhmrError, match=message):
        send(stage, *overrides, **profile)
    assert not slurm.submitted()


def test_a_run_has_one_job(slurm, send):
    send()
    (slurm.home / "squeue").write_text("1000|N/A|RUNNING|n1|1|2|3|a run|/x/script|None\n")
    with pytest.raises(AdhmrError, match="job 1000 works there already"):
        send()


def test_sbatch_refuses(slurm, send):
    run_dir = send().run_dir
    former = (run_dir / "config.yaml").read_text()
    (slurm.home / "sbatch_refuses").write_text("Invalid account")
    with pytest.raises(AdhmrError, match="Invalid account"):
        send(SYNTH, "seed=3")
    assert (run_dir / "config.yaml").read_text() == former
    assert LaunchFolder(run_dir).job().job_id == "1000"


def test_ranks_get_their_environment(slurm, send):
    run_dir = send(TRAIN, "resources.nodes=2", "resources.tasks_per_node=2").run_dir
    stand_in(run_dir)
    assert slurm.run(nodes=2, tasks=2) == 0
    log = LaunchFolder(run_dir).log(3).read_text()
    assert "'RANK': '3', 'WORLD_SIZE': '4', 'LOCAL_RANK': '1', 'LOCAL_WORLD_SIZE': '2', 'MASTER_ADDR': 'n1'" in log
    assert "'ADHMR_JOB_END': '18934" in log  # 2030
    assert ends(run_dir) == [(0, "done")]
    assert slurm.asked() == []


@pytest.mark.parametrize(
    "codes, code, decision",
    [
        ([-12, -12], 85, "requeue"),  # USR2 before there was a handler
        ([-9, -15], 137, "requeue"),
        ([-15, 2], 2, "stop"),  # the user's error is on another rank than the kill
    ],
)
def test_what_follows_from_the_ends_of_ranks(slurm, send, codes, code, decision):
    run_dir = send(TRAIN, "resources.nodes=2").run_dir
    stand_in(run_dir, codes)
    assert slurm.run(nodes=2) == code
    assert ends(run_dir) == [(code, decision)]
    assert slurm.asked() == (["requeue 1000"] if decision == "requeue" else [])
    stand_in(run_dir)
    assert slurm.run(nodes=2, restart=1) == 0
    assert len(LaunchFolder(run_dir).events()) == 4


def test_the_reason_is_the_users_line(slurm, send):
    run_dir = send().run_dir
    stand_in(run_dir, [2])
    slurm.run()
    assert LaunchFolder(run_dir).events()[-1]["reason"] == "the stage is wrong"


def test_a_crash_loop_stops(slurm, send):
    run_dir = send(max_failures=3).run_dir
    stand_in(run_dir, [1])
    for restart in range(2):
        slurm.run(restart=restart)
        assert slurm.asked() == ["requeue 1000"]
    (run_dir / "000000.tar").touch()  # progress: the count begins anew
    for restart in range(2, 4):
        slurm.run(restart=restart)
        assert slurm.asked() == ["requeue 1000"]
    assert slurm.run(restart=4) == 1
    assert slurm.asked() == []
    last = LaunchFolder(run_dir).events()[-1]
    assert last["decision"] == "stop" and "3 attempts in a row failed without any progress" in last["reason"]


def test_no_more_requeues_than_allowed(slurm, send):
    run_dir = send(max_requeues=1).run_dir
    stand_in(run_dir, [85])
    slurm.run()
    slurm.run(restart=1)
    assert ends(run_dir) == [(85, "requeue"), (85, "stop")]


def test_slurm_has_requeued_or_cancelled_it(slurm, send):
    run_dir = send().run_dir
    stand_in(run_dir, [85])
    slurm.state("COMPLETING", restarts=1, after=True)  # preempted
    slurm.run()
    slurm.state("RUNNING", restarts=1)
    slurm.state("COMPLETING", restarts=1, end="2026-01-01T00:00:00", after=True)  # scancel
    assert slurm.run(restart=1) == 130
    assert ends(run_dir) == [(85, "requeue"), (130, "stop")]
    assert slurm.asked() == []


def test_requeue_of_a_cancelled_job(slurm, send):
    run_dir = send().run_dir
    stand_in(run_dir)
    LaunchFolder(run_dir).cancelled_file.touch()
    assert slurm.run() == 130
    assert LaunchFolder(run_dir).events() == []
    send()  # submitting again takes the mark away
    stand_in(run_dir)
    assert slurm.run(1001) == 0


def test_a_job_of_a_former_submission_does_nothing(slurm, send):
    run_dir = send().run_dir
    send()
    stand_in(run_dir)
    assert slurm.run(1000, restart=1) == 86
    assert LaunchFolder(run_dir).events() == []
    assert slurm.run(1001) == 0


def test_bad_nodes_are_avoided(slurm, send):
    run_dir = send(TRAIN, "resources.nodes=2", preflight=True).run_dir
    stand_in(run_dir)
    check = "import os, sys\nsys.exit(87 if os.environ['SLURMD_NODENAME'] in open('bad').read().split() else 0)\n"
    (run_dir / "launch/code/launchers/preflight.py").write_text(check)
    Path("bad").write_text("n2")
    slurm.run(nodes=2)
    assert slurm.asked() == ["requeuehold 1000", "update JobId=1000 ExcNodeList=n2", "release 1000"]
    assert LaunchFolder(run_dir).excluded() == ["n2"]
    Path("bad").write_text("n1")  # with n2, too many of three nodes
    assert slurm.run(nodes=2, restart=1) == 87
    assert slurm.asked() == []
    assert ends(run_dir) == [(87, "exclude"), (87, "stop")]
    send(TRAIN, "resources.nodes=2")
    assert "#SBATCH --exclude=n2" in slurm.submitted()[-1]["script"]


def test_requeueing_is_forbidden(slurm, send):
    run_dir = send().run_dir
    stand_in(run_dir, [85])
    (slurm.home / "scontrol_refuses").touch()
    assert slurm.run() == 85
    assert LaunchFolder(run_dir).job().job_id == "1001"
    assert "SLURM_JOB_ID" not in slurm.submitted()[1]["environment"]
    stand_in(run_dir)
    assert slurm.run(1001) == 0
    (slurm.home / "sbatch_refuses").write_text("no")
    stand_in(run_dir, [85])
    slurm.run(1001, restart=1)
    assert LaunchFolder(run_dir).events()[-1]["decision"] == "stop"


def test_each_worker_of_an_array_for_itself(slurm, send):
    run_dir = send(GENERATE, "resources.array=3", array_parallel=2).run_dir
    assert "#SBATCH --array=0-2%2" in slurm.submitted()[0]["script"].splitlines()
    assert len(list((run_dir / "launch/submission").glob("1000_*_submitted.pkl"))) == 3
    stand_in(run_dir, [0, 85, 1])
    assert [slurm.run(worker=worker) for worker in range(3)] == [0, 85, 1]
    assert [ends(run_dir, worker) for worker in range(3)] == [[(0, "done")], [(85, "requeue")], [(1, "requeue")]]
    assert slurm.asked() == ["requeue 1000_1", "requeue 1000_2"]
    assert "code of" in LaunchFolder(run_dir).log(worker=1).read_text()
    assert len(LaunchFolder(run_dir).all_events()) == 6


def test_the_job_runs_the_code_that_was_submitted(slurm, tmp_path, monkeypatch):
    """From a checkout that is no git repository, is the current folder, and changes afterwards."""
    checkout = copy_packages(tmp_path / "check out")
    write_profile(tmp_path / "site.yaml")
    (tmp_path / "stage.yaml").write_text(yaml.safe_dump({**SYNTH, "output": str(tmp_path / "run")}))
    words = [sys.executable, "-m", "adhmr.cli", "submit", str(tmp_path / "stage.yaml"), "--cluster"]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    subprocess.run([*words, str(tmp_path / "site.yaml")], cwd=checkout, env=environment, check=True)
    origin = json.loads((tmp_path / "run/launch/code/origin.json").read_text())
    assert origin == {"source": str(checkout)}
    stand_in(tmp_path / "run")
    for name in ("adhmr/__init__.py", "adhmr/cli/__init__.py", "launchers/__init__.py", "launchers/task.py"):
        (checkout / name).write_text("raise SystemExit('the changed checkout was imported')\n")
    assert slurm.run() == 0
    assert f"code of {tmp_path}/run/launch/code/adhmr/cli/__main__.py" in LaunchFolder(tmp_path / "run").log().read_text()
