"""What a pipeline submits and leaves alone; the jobs and Slurm's answers on them are stood in for."""

import time
from pathlib import Path

import pytest
import yaml

from adhmr.config.loading import save_resolved
from adhmr.errors import AdhmrError
from launchers import pipeline_cluster, pipeline_plan
from launchers.code_version import code_files
from launchers.launch_folder import JobRecord, LaunchFolder
from launchers.pipeline import run_pipeline
from launchers.slurm_queue import Answer, JobRow
from launchers.stage_record import mark_done
from launchers.submission import Submitted

SYNTH = {"stage": "synth", "output": "x", "sets": [{"name": "synth-studio", "count": 5}]}
REPORT = {"stage": "report", "output": "x", "title": "t", "crop": {}}
ALL = ["data", "left", "right", "end"]


class FakeSlurm:
    """Jobs by number, in the states that a test gives them; an hour old, so that no answer is too fresh."""

    def __init__(self, output: Path):
        self.output = output
        self.jobs: dict[str, dict] = {}
        self.submitted: list[tuple[str, list[str]]] = []  # (run, runs that its job waits for)
        self.cancelled: list[str] = []
        self.refuse: str | None = None

    def submit(self, config, cluster, name, fingerprint, after=(), *, dry_run=False) -> Submitted:
        if name == self.refuse:
            raise AdhmrError("sbatch refuses the job")
        number = str(100 + len(self.jobs))
        folder = LaunchFolder(config.output)
        save_resolved(config, config.output / "config.yaml")
        about = {"cluster": "here", "kind": "slurm", "array": None, "nodes": 1, "tasks_per_node": 1, "time_minutes": 60}
        then = time.time() - 3600
        about |= {"submitted": then, "after": list(after), "fingerprint": fingerprint}
        folder.write_job(JobRecord(name=name, stage=config.stage, job_id=number, **about))
        self.jobs[number] = {"name": name, "state": "PENDING", "reason": "Dependency" if after else "Priority"}
        self.submitted.append((name, [self.jobs[job]["name"] for job in after]))
        return Submitted(config.output, number, "")

    def ask(self, jobs):
        return {job: Answer((self._row(job),), ()) if job in self.jobs else Answer((), ()) for job in map(str, jobs)}

    def cancel(self, job: str) -> None:
        self.cancelled.append(self.jobs[job]["name"])
        self.jobs[job]["state"] = "CANCELLED"

    def _row(self, job: str) -> JobRow:
        it = self.jobs[job]
        begun = it["state"] not in ("PENDING",) and not it.get("never_began")
        then = time.time() - 3000
        return JobRow(
            job=job,
            task=None,
            state=it["state"],
            nodes="n1" if begun else "",
            submitted=then,
            started=then if begun else None,
            ended=then + 100,
            name=it["name"],
            scripts=(str(self.output / it["name"] / "launch" / "submission" / "x.sh"),),
            reason=it.get("reason", ""),
        )

    def is_now(self, name: str, state: str, **more) -> None:
        number = max(job for job, it in self.jobs.items() if it["name"] == name)
        self.jobs[number] |= {"state": state, "reason": "", **more}

    def finish(self, *names: str) -> None:
        for name in names:
            self.is_now(name, "COMPLETED")
            mark_done(self.output / name, 10.0)
            for result in "ab":
                (self.output / name / result).mkdir(exist_ok=True)

    def take(self) -> list[tuple[str, list[str]]]:
        taken, self.submitted = self.submitted, []
        return taken


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> FakeSlurm:
    slurm = FakeSlurm(tmp_path / "out")
    monkeypatch.setattr(pipeline_cluster, "Queue", lambda: slurm)
    monkeypatch.setattr(pipeline_cluster, "submit_config", slurm.submit)
    monkeypatch.setattr(pipeline_cluster, "check_partition", lambda allocation, cluster: None)
    return slurm


@pytest.fixture
def run(tmp_path, slurm, capsys):
    """`adhmr pipeline` on the cluster; what it printed."""
    (tmp_path / "synth.yaml").write_text(yaml.safe_dump(SYNTH))
    (tmp_path / "report.yaml").write_text(yaml.safe_dump(REPORT))
    (tmp_path / "site.yaml").write_text(yaml.safe_dump({"kind": "slurm"}))
    read = {"data": "{output}/data/a", "evaluation": "{output}/data/b"}
    stages = [
        {"name": "data", "config": "synth.yaml"},
        {"name": "left", "config": "report.yaml", "after": ["data"], "values": read},
        {"name": "right", "config": "report.yaml", "after": ["data"], "values": {**read, "title": "other"}},
        {"name": "end", "config": "report.yaml", "after": ["left", "right"], "values": {**read, "pictures": 3}},
    ]
    file = tmp_path / "chain.yaml"
    file.write_text(yaml.safe_dump({"name": "chain", "output": str(tmp_path / "out"), "stages": stages}))

    def run(*overrides: str, **options) -> str:
        run_pipeline(file, list(overrides), cluster=str(tmp_path / "site.yaml"), **options)
        return capsys.readouterr().out

    return run


def test_every_run_waits_for_those_that_it_reads(run, slurm):
    printed = run()
    assert slurm.take() == [("data", []), ("left", ["data"]), ("right", ["data"]), ("end", ["left", "right"])]
    assert "[4/4] end: submitted as job 103 (1 node x 1 task, 60 min), after 101, 102" in printed
    assert "chain: 0 done, 0 in the queue, 4 submitted" in printed


def test_a_rerun_leaves_jobs_alone_and_submits_nothing_twice(run, slurm):
    run()
    slurm.take()
    slurm.is_now("data", "RUNNING")
    printed = run()
    assert slurm.take() == [] and not slurm.cancelled
    assert "data: job 100 running" in printed and "chain: 0 done, 4 in the queue, 0 submitted" in printed
    slurm.finish("data")
    slurm.is_now("left", "RUNNING")
    assert "1 done, 3 in the queue, 0 submitted" in run() and slurm.take() == []
    slurm.finish("left", "right", "end")
    assert "chain: all 4 stages are done" in run() and slurm.take() == []


def test_after_a_failure_only_the_rest_is_submitted_and_the_failure_is_told(run, slurm):
    run()
    slurm.take()
    slurm.finish("data", "right")
    slurm.is_now("left", "FAILED", reason="NonZeroExitCode")
    (slurm.output / "left" / "half").write_text("")
    slurm.is_now("end", "CANCELLED", never_began=True)  # --kill-on-invalid-dep
    printed = run()
    assert slurm.take() == [("left", []), ("end", ["left"])]
    assert "[2/4] left: job 101 failed" in printed and "goes on where it stopped" in printed
    assert "[4/4] end: job 103 cancelled: a job that it waited for did not succeed" in printed
    assert not list(slurm.output.glob("*.previous"))


def test_a_job_that_waits_for_ever_is_replaced(run, slurm):
    """Where the cluster does not cancel it (DependencyNeverSatisfied), and where it has not yet."""
    run()
    slurm.take()
    slurm.finish("data", "right")
    slurm.is_now("left", "FAILED")
    slurm.is_now("end", "PENDING", reason="DependencyNeverSatisfied")
    printed = run()
    assert slurm.cancelled == ["end"] and slurm.take() == [("left", []), ("end", ["left"])]
    assert "end: job 103 blocked: a job that it waits for failed or was cancelled" in printed
    slurm.is_now("left", "FAILED")
    slurm.cancelled.clear()
    run()  # the new job of `end` still waits for the former one of `left`
    assert slurm.cancelled == ["end"] and slurm.take() == [("left", []), ("end", ["left"])]


def test_what_runs_is_never_taken_its_input_away(run, slurm):
    run()
    slurm.take()
    slurm.finish("data")
    slurm.is_now("left", "RUNNING")
    (slurm.output / "data" / "stage.json").unlink()
    with pytest.raises(AdhmrError, match=r"job 101 running, but what it reads \(data\) is to be made anew"):
        run()
    assert slurm.take() == [] and not slurm.cancelled


def test_another_configuration_waits_until_its_jobs_are_stopped(run, slurm):
    run()
    slurm.take()
    with pytest.raises(AdhmrError, match=r"out/left: job 101 pending.*title changed.*stop it first: adhmr cancel"):
        run("left.title=new")
    assert slurm.take() == [] and not slurm.cancelled
    slurm.finish("data", "left", "right", "end")
    run("left.title=newer")  # two jobs that are cancelled before they begin
    slurm.take()
    for name in ("left", "end"):
        slurm.is_now(name, "CANCELLED", never_began=True)
    printed = run("left.title=new")
    assert printed.count("nothing had been made of it yet") == 2
    assert (slurm.output / "left.previous" / "a").is_dir()  # the former result has not given way to an empty folder
    assert slurm.take() == [("left", []), ("end", ["left"])]
    assert "made anew: title changed" in printed and (slurm.output / "left.previous" / "launch").is_dir()


def test_jobs_of_another_code_are_kept_on_request(run, slurm, monkeypatch):
    run()
    slurm.take()
    slurm.finish("data")
    monkeypatch.setattr(pipeline_plan, "code_files", lambda module: {**code_files(module), "adhmr/new.py": "1"})
    with pytest.raises(AdhmrError, match=r"left: job 101 pending.*the code changed .*or keep it .--accept-code left"):
        run()
    assert slurm.take() == []
    assert "1 done, 3 in the queue, 0 submitted" in run(accept_code=["all"]) and slurm.take() == []
    assert "1 done, 3 in the queue, 0 submitted" in run() and slurm.take() == []  # for good
    slurm.finish("left")
    assert "2 done, 2 in the queue" in run()


def test_a_submission_that_breaks_off_is_completed(run, slurm):
    slurm.refuse = "right"
    with pytest.raises(AdhmrError, match="sbatch refuses"):
        run()
    assert slurm.take() == [("data", []), ("left", ["data"])]
    slurm.refuse = None
    assert "2 in the queue, 2 submitted" in run()
    assert slurm.take() == [("right", ["data"]), ("end", ["left", "right"])]


def test_a_job_that_slurm_has_forgotten_is_submitted_again(run, slurm):
    run()
    slurm.take()
    slurm.jobs.clear()
    slurm.jobs["200"] = {"name": "of another", "state": "RUNNING"}
    printed = run()
    assert [name for name, _ in slurm.take()] == ALL and "data: job 100 over: Slurm knows no job 100" in printed


def test_a_dry_run_submits_and_writes_nothing(run, slurm):
    printed = run(dry_run=True)
    assert "end: would be submitted (1 node x 1 task, 60 min), after left, right" in printed
    assert slurm.take() == [] and not slurm.output.exists()


def test_only_a_part_is_submitted(run, slurm):
    assert "left: would be submitted" in run(dry_run=True, wanted=["left"]) and slurm.take() == []
    assert "0 done, 0 in the queue, 2 submitted" in run(wanted=["left"])
    assert slurm.take() == [("data", []), ("left", ["data"])]
    assert "2 in the queue, 2 submitted" in run()
    assert slurm.take() == [("right", ["data"]), ("end", ["left", "right"])]


def test_a_part_takes_no_input_from_jobs_that_are_left_out(run, slurm):
    run()
    slurm.take()
    slurm.finish("data", "left")
    slurm.is_now("right", "RUNNING")
    assert "all 2 stages are done" in run(wanted=["left"])
    (slurm.output / "left" / "stage.json").unlink()
    with pytest.raises(AdhmrError, match=r"out/end: job 103 pending.*what it reads \(left\) is to be made anew"):
        run(wanted=["left"])
    assert slurm.take() == [] and not slurm.cancelled


def test_mistakes_are_told_before_anything_is_submitted(run, slurm):
    with pytest.raises(AdhmrError, match="--keep-going is for a pipeline run here"):
        run(keep_going=True)
    with pytest.raises(AdhmrError, match=r"stage end: resources.gpus_per_node is 4, but .*; nothing was submitted"):
        run("end.resources.gpus_per_node=4")
    with pytest.raises(AdhmrError, match="--wait is for --cluster"):
        run_pipeline(slurm.output.parent / "chain.yaml", [], wait=True)
    assert slurm.take() == [] and not list(slurm.output.glob("*/stage.json"))


def test_the_same_pipeline_is_not_run_here_meanwhile(run, slurm, monkeypatch):
    from launchers import pipeline

    run()
    monkeypatch.setattr(pipeline, "Queue", lambda: slurm)
    with pytest.raises(AdhmrError, match=r"data: job 100 pending.*; wait for it"):
        run_pipeline(slurm.output.parent / "chain.yaml", [])
