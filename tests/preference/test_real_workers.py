"""The command itself, with the tiny networks: workers that are killed leave what one writes."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.preference.crew import await_that, marked, records, results
from tests.tiny import CROP, REPOSITORY, adhmr, command_environment

pytestmark = pytest.mark.slow


def run_worker(stage: Path) -> subprocess.Popen:
    line = [sys.executable, "-m", "adhmr.cli", "run", str(stage)]
    return subprocess.Popen(line, cwd=REPOSITORY, env=command_environment(), stdout=subprocess.DEVNULL)


def test_kills_of_the_command(tmp_path, studio_set, tiny_weights):
    values = {
        "stage": "generate",
        "output": str(tmp_path / "out"),
        "base": str(tiny_weights / "base.safetensors"),
        "scorer": str(tiny_weights / "scorer.safetensors"),
        "sets": [{"path": str(studio_set), "rankings": ["error", "scorer", "random"]}],
        "crop": CROP,
        "hypotheses": 6,
        "pairs": 2,
        "images_per_batch": 3,
        "unit": 4,
        "threads": 1,
        "ledger": {"lease_seconds": 2},
    }
    stage = tmp_path / "generate.yaml"
    stage.write_text(yaml.safe_dump(values))
    chance = random.Random(0)
    crew = [run_worker(stage) for _ in range(2)]
    await_that(lambda: records(tmp_path / "out", "leases"), 120)
    for _ in range(2):
        time.sleep(0.3 * chance.random())
        crew[0].kill()
        crew.pop(0).wait()
        crew.append(run_worker(stage))
    assert [worker.wait(120) for worker in crew] == [0, 0]
    assert marked(tmp_path / "out") == 3
    assert adhmr("run", stage, f"output={tmp_path / 'alone'}").returncode == 0
    killed, alone = results(tmp_path / "out"), results(tmp_path / "alone")
    del killed["config.yaml"], alone["config.yaml"]
    assert killed == alone
