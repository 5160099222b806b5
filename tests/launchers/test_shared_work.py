"""The status of shared work whose workers were started by hand: from the ledger alone, on any machine."""

import json
import os
import time
from pathlib import Path

import pytest

from adhmr.preference.ledger import Ledger
from adhmr.preference.progress import LEDGERS, PLAN_NAME, WORKERS
from launchers.run_status import find_runs, run_status
from launchers.slurm_queue import Queue

LEASE = 30.0


class SharedWork:
    """The output of a stage with units of work."""

    def __init__(self, folder: Path, stage: str, units: int):
        self.folder = folder
        (folder / LEDGERS / WORKERS).mkdir(parents=True)
        (folder / "config.yaml").write_text(f"stage: {stage}\ntrain: {{steps: 10}}\n")
        plan = {"lease_seconds": LEASE, "attempts": 1, "units": {"people": units}}
        (folder / LEDGERS / PLAN_NAME).write_text(json.dumps(plan))
        names = [f"{number:06d}" for number in range(units)]
        self.ledger = Ledger(folder / LEDGERS / "people", names, folder, "me", LEASE, 1)

    def finish(self) -> None:
        self.ledger.finish(self.ledger.claim(), [])

    def fail(self) -> None:
        lease = self.ledger.claim()
        self.ledger.fail(lease, "broken", "")

    def worker(self, seconds_ago: float) -> None:
        sign = self.folder / LEDGERS / WORKERS / "me.json"
        sign.write_text("{}")
        os.utime(sign, (time.time() - seconds_ago,) * 2)


@pytest.fixture(params=["generate", "reference"])
def work(tmp_path, request) -> SharedWork:
    return SharedWork(tmp_path / "work", request.param, 2)


def status(work: SharedWork) -> tuple[str, str, int | None, int | None]:
    found = run_status(work.folder, Queue())
    return found.state, found.reason, found.step, found.steps


def test_from_the_first_worker_to_the_end(work):
    assert find_runs(work.folder.parent) == [work.folder]
    work.worker(1)
    work.finish()
    assert status(work) == ("running", "", 1, 2)
    work.worker(2 * LEASE)
    state, reason, *_ = status(work)
    assert state == "stopped" and "the same command goes on" in reason
    work.finish()
    assert status(work) == ("done", "", 2, 2)


def test_units_that_were_given_up(work):
    work.finish()
    work.fail()
    assert status(work) == ("failed", "1 of 2 units failed", 1, 2)
