"""A pipeline of tiny stages on the real cluster: a failure, the jobs behind it, a rerun, a worker that is killed."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import yaml

from launchers.stage_record import read_record
from tests.tiny import CROP, adhmr

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

SETS = [{"name": "synth-studio", "count": 12}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_weights) -> Path:
    """tiny.yaml: data, preferences by two workers, and a cleaning that reads a data set which is not there."""
    folder = tmp_path_factory.mktemp("pipeline")
    base, scorer = (str(tiny_weights / f"{name}.safetensors") for name in ("base", "scorer"))
    synth = {"stage": "synth", "output": "x", "sets": SETS, "image_size": 64, "processes": 1, "samples_per_shard": 4}
    generate = {
        **{"stage": "generate", "output": "x", "base": base, "crop": CROP, "hypotheses": 4, "pairs": 2, "unit": 2},
        **{"sets": [{"path": "x", "rankings": ["error"]}], "images_per_batch": 2, "resources": {"array": 2}},
    }
    clean = {"stage": "clean", "output": "x", "scorer": scorer, "sets": ["x"], "percentile": 50.0, "padding": 1.25}
    for name, stage in (("synth", synth), ("generate", generate), ("clean", clean)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(stage))
    cluster = {"kind": "slurm", "partition": "debug", "time_minutes": 30, "environment": {"OMP_NUM_THREADS": "1"}}
    (folder / "cluster.yaml").write_text(yaml.safe_dump(cluster))
    studio = "{output}/data/synth-studio-train"
    after = {"after": ["data"]}
    stages = [
        {"name": "data", "config": "synth.yaml"},
        {"name": "preferences", "config": "generate.yaml", **after, "values": {"sets.0.path": studio}},
        {"name": "clean", "config": "clean.yaml", **after, "values": {"sets": ["{output}/data/not-there"]}},
        {"name": "again", "config": "clean.yaml", "after": ["clean"], "values": {"sets": [studio]}},
    ]
    pipeline = {"name": "tiny", "output": str(folder / "out"), "stages": stages}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(pipeline))
    return folder


def submit(folder: Path, *more: str):
    # A checkout that is worked on while the test runs is another version of the code each time.
    options = ("--cluster", folder / "cluster.yaml", "--accept-code", "all")
    return adhmr("pipeline", folder / "tiny.yaml", *options, *more)


def worker_process(run: Path) -> int:
    """A process of the run, as soon as there is one."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_text().split("\0")
            except OSError:
                continue
            if "adhmr.cli" in words and str(run / "config.yaml") in words:
                return int(entry.name)
        time.sleep(0.1)
    pytest.fail(f"no process of {run}")


def test_a_failure_is_told_and_the_rest_submitted_again(cluster, folder):
    output = folder / "out"
    ran = submit(folder)
    assert ran.returncode == 0, ran.stderr
    assert "tiny: 0 done, 0 in the queue, 4 submitted" in ran.stdout
    ran = submit(folder)
    assert "tiny: 0 done, 4 in the queue, 0 submitted" in ran.stdout, ran.stdout + ran.stderr
    os.kill(worker_process(output / "preferences"), signal.SIGKILL)

    ran = submit(folder, "--wait")
    assert ran.returncode == 2
    told = ran.stderr.splitlines()[-1]
    assert "2 of 4 stages are not done" in told and "clean failed" in told and "not-there" in told
    states = {name: read_record(output / name).state for name in ("data", "preferences", "clean", "again")}
    assert states == {"data": "done", "preferences": "done", "clean": "started", "again": "started"}

    ran = submit(folder, f"clean.sets=[{output}/data/synth-studio-train]", "--wait")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "data: done (" in ran.stdout and "preferences: done (" in ran.stdout
    assert (
        "2 done, 0 in the queue, 2 submitted" in ran.stdout and "a job that it waited for did not succeed" in ran.stdout
    )
    assert (output / "again" / "synth-studio-train" / "index.json").exists()

    ran = submit(folder, f"clean.sets=[{output}/data/synth-studio-train]")
    assert "tiny: all 4 stages are done" in ran.stdout


def test_the_results_are_those_of_a_run_without_slurm(cluster, folder):
    made = folder / "out" / "preferences"
    ran = adhmr("run", made / "config.yaml", f"output={folder / 'alone'}")
    assert ran.returncode == 0, ran.stderr
    shards = sorted(path.relative_to(made) for path in made.glob("synth-*/*.tar"))
    assert len(shards) == 6
    for path in (*shards, shards[0].parent / "index.json"):
        assert (made / path).read_bytes() == (folder / "alone" / path).read_bytes(), path
    restarts = [json.loads(line) for line in (made / "launch").glob("events-*.jsonl") for line in line.open()]
    assert sum(line["event"] == "started" for line in restarts) >= 3  # two workers, one of them twice
