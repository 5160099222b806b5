"""The whole program at its smallest, through the real command: data, base model, scorer, preferences, alignment,
evaluation, report; killed in the middle, run again, run with a change. The tests of this file build on each other."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.tiny import BASE, CROP, REPOSITORY, SCORER, adhmr, command_environment

pytestmark = pytest.mark.slow

STAGES = ["data", "base", "scorer", "preferences", "align", "evaluate", "report"]
TRAIN = {"steps": 6, "global_batch": 8, "ema_decay": 0.9, "log_every": 2, "save_every": 3}


class Pipeline:
    """A pipeline of the demo's stages in a temporary folder, and the overrides that make them tiny."""

    def __init__(self, folder: Path, encoder: Path):
        self.output, self.file = folder / "out", folder / "tiny.yaml"
        stages = REPOSITORY / "configs" / "stages" / "demo"
        studio, wild, bench = (f"{{output}}/data/synth-{name}" for name in ("studio-train", "wild-train", "bench-test"))
        base, scorer, aligned = (f"{{output}}/{name}/model.safetensors" for name in ("base", "scorer", "align"))
        models = [{"name": "base", "weights": base}, {"name": "aligned", "weights": aligned}]
        values = {
            "data": {},
            "base": {"data.sets": [{"path": studio}, {"path": wild}], "validation.path": bench},
            "scorer": {"data.sets": [{"path": studio}], "sampled.base": base},
            "preferences": {
                "base": base,
                "scorer": scorer,
                "sets": [{"path": studio, "rankings": ["error", "random"]}, {"path": wild, "rankings": ["scorer"]}],
            },
            "align": {
                "base": base,
                "preferences.0.path": "{output}/preferences/synth-studio-train-error",
                "preferences.1.path": "{output}/preferences/synth-wild-train-scorer",
                "validation.path": bench,
            },
            "evaluate": {"data": bench, "scorer": scorer, "models": models},
            "report": {
                "evaluation": "{output}/evaluate",
                "data": bench,
                "runs": ["{output}/base", "{output}/scorer", "{output}/align"],
                "compared": models,
            },
        }
        files = {"preferences": "generate"}
        chain = [
            {
                "name": name,
                "config": str(stages / f"{files.get(name, name)}.yaml"),
                "after": STAGES[max(0, number - 1) : number],
                "values": values[name],
            }
            for number, name in enumerate(STAGES)
        ]
        self.file.write_text(yaml.safe_dump({"name": "tiny", "output": "elsewhere", "stages": chain}))
        sets = [("studio", "train", 24), ("wild", "train", 24), ("bench", "test", 10)]
        changes = {
            "output": str(self.output),
            "data.sets": [{"name": f"synth-{name}", "split": split, "count": count} for name, split, count in sets],
            "data.image_size": 64,
            "data.samples_per_shard": 12,
            "data.processes": 1,
            "base.model": BASE,
            "scorer.model": SCORER,
            "scorer.sampled.count": 2,
            "scorer.metric_vertices": 100,
            "preferences.hypotheses": 6,
            "preferences.pairs": 2,
            "preferences.unit": 3,
            "preferences.images_per_batch": 3,
            "preferences.ledger.lease_seconds": 10,  # how long a killed worker's unit waits
            "align.workers": 0,
            "evaluate.hypotheses": [2, 5],
            "evaluate.limit": 8,
            "report.pictures": 2,
        }
        for name in ("base", "scorer"):
            changes |= {f"{name}.encoder_weights": str(encoder), f"{name}.data.workers": 0}
            changes |= {f"{name}.data.crop": CROP, f"{name}.train": TRAIN}
        changes |= {f"{name}.crop": CROP for name in ("preferences", "evaluate", "report")}
        changes |= {f"{name}.validation_limit": 4 for name in ("base", "align")} | {"align.train": TRAIN}
        self.overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items()]

    def run(self, *more: str) -> str:
        """Run to the end; what was printed."""
        process = adhmr("pipeline", self.file, *self.overrides, *more)
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout

    def start(self) -> subprocess.Popen:
        line = [sys.executable, "-m", "adhmr.cli", "pipeline", str(self.file), *self.overrides]
        with (self.output.parent / "killed.log").open("a") as log:
            return subprocess.Popen(
                line, cwd=REPOSITORY, env=command_environment(), stdout=log, stderr=log, start_new_session=True
            )

    def killed_when(self, path: Path) -> None:
        """Start the pipeline and, as soon as `path` is there, kill all its processes at once."""
        process, log = self.start(), self.output.parent / "killed.log"
        deadline = time.monotonic() + 900
        try:
            while not path.exists():
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.005)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def state(self, name: str) -> dict:
        return json.loads((self.output / name / "stage.json").read_text())


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory, tiny_weights) -> Pipeline:
    return Pipeline(tmp_path_factory.mktemp("pipeline"), tiny_weights / "encoder.safetensors")


def test_killed_while_it_makes_preferences_it_goes_on_to_the_end(pipeline):
    preferences = pipeline.output / "preferences"
    pipeline.killed_when(preferences / "synth-studio-train-random" / "000001.tar")
    assert pipeline.state("scorer")["state"] == "done" and pipeline.state("preferences")["state"] == "started"
    whole = sorted(preferences.glob("*/*.tar"))
    assert 0 < len(whole) < 24 and not list(preferences.glob("synth-wild*/index.json"))
    stamps = {path: path.stat().st_mtime_ns for path in whole}

    # Once more, between the first checkpoint of the alignment and its end.
    pipeline.killed_when(pipeline.output / "align" / "checkpoints" / "step-00000003")
    assert pipeline.state("preferences")["state"] == "done" and not (pipeline.output / "align" / "done.json").exists()
    assert {path: path.stat().st_mtime_ns for path in whole} == stamps  # kept, not made again

    printed = pipeline.run()
    for name in STAGES[:4]:
        assert f"{name}: done (" in printed
    assert "align (continued)" in printed and "align: going on from step 3" in printed
    assert f"all {len(STAGES)} stages are done" in printed
    report = (pipeline.output / "report" / "report.html").read_text()
    assert "aligned" in report and "change" in report
    assert report.count("data:image/jpeg") == 4  # sheets: random images, the worst, gains, losses
    for name in ("base", "scorer", "align"):
        assert (pipeline.output / name / "model.safetensors").exists()


def test_interrupted_results_are_those_of_a_run_without_interruption(pipeline, tmp_path):
    for name in ("preferences", "align"):
        process = adhmr("run", pipeline.output / name / "config.yaml", f"output={tmp_path / name}")
        assert process.returncode == 0, process.stderr
    shards = sorted(path.relative_to(tmp_path) for path in (tmp_path / "preferences").glob("*/*.tar"))
    assert len(shards) == 24
    for path in (*shards, *{shard.parent / "index.json" for shard in shards}):
        assert (tmp_path / path).read_bytes() == (pipeline.output / path).read_bytes(), path
    assert len(list((pipeline.output / "preferences").glob("*/*.tar"))) == 24
    aligned = Path("align") / "model.safetensors"
    assert (tmp_path / aligned).read_bytes() == (pipeline.output / aligned).read_bytes()


def test_a_rerun_does_nothing(pipeline):
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    printed = pipeline.run()
    # Of the processor, so that a busy machine does not count: it starts no stage and imports nothing heavy.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 3  # seconds
    assert printed.count(": done (") == len(STAGES) and f"all {len(STAGES)} stages are done" in printed


def test_a_changed_override_runs_what_depends_on_it_alone(pipeline):
    stamps = {name: (pipeline.output / name / "stage.json").stat().st_mtime_ns for name in STAGES}
    printed = pipeline.run("evaluate.hypotheses=[2,4]")
    again = [name for name in STAGES if (pipeline.output / name / "stage.json").stat().st_mtime_ns != stamps[name]]
    assert again == ["evaluate", "report"] and printed.count(": done (") == 5
    for name, hypotheses in (("evaluate", [2, 4]), ("evaluate.previous", [2, 5])):
        assert json.loads((pipeline.output / name / "figures.json").read_text())["hypotheses"] == hypotheses
    assert (pipeline.output / "report.previous" / "report.html").exists()
