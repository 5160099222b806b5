"""The ledger against a model of it: any order of claims, ends, deaths and pauses of several workers."""

import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adhmr.errors import AdhmrError
from adhmr.preference import ledger as ledger_module
from adhmr.preference.ledger import MAX_DEATHS, FileNote, Ledger
from adhmr.preference.progress import generation_progress

LEASE, ATTEMPTS, WORKERS = 60.0, 2, 3
DEEDS = ("claim", "finish", "fail", "let_go", "die", "pause")


class Office:
    """Workers of one ledger with a clock that the test turns."""

    def __init__(self, folder: Path, units: int):
        self.folder, self.units = folder, [f"{number:06d}" for number in range(units)]
        self.seconds, self.held, self.ticks = 0.0, {}, 1
        ledger_module.time = SimpleNamespace(monotonic=lambda: self.seconds)
        self.ledgers = [self.ledger(f"worker-{number}") for number in range(WORKERS)]

    def ledger(self, name: str) -> Ledger:
        return Ledger(self.folder / "ledger", self.units, self.folder, name, LEASE, ATTEMPTS)

    def claim(self, worker: int) -> str | None:
        lease = self.ledgers[worker].claim(worker)
        if lease is not None:
            self.held[worker] = lease
        return None if lease is None else lease.unit

    def finish(self, worker: int) -> str:
        lease = self.held.pop(worker)
        (self.folder / lease.unit).write_text("made")
        self.ledgers[worker].finish(lease, [FileNote(lease.unit, 4, "")])
        return lease.unit

    def fail(self, worker: int) -> str:
        lease = self.held.pop(worker)
        self.ledgers[worker].fail(lease, "broken", "")
        lease.let_go()
        return lease.unit

    def pause(self, seconds: float) -> None:
        """Time in which all holders beat and all the others look."""
        for _ in range(7):
            self.seconds += seconds / 7
            for lease in self.held.values():
                lease.beat()
                self.ticks += 1  # the clock of the test's disk is too coarse for hours in a millisecond
                os.utime(lease._path, ns=(self.ticks, self.ticks))
            for worker in set(range(WORKERS)) - set(self.held):
                if (lease := self.ledgers[worker].claim()) is not None:
                    assert lease.unit not in [held.unit for held in self.held.values()]
                    lease.let_go()


@pytest.fixture(autouse=True)
def real_clock():
    real = ledger_module.time
    yield
    ledger_module.time = real


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.lists(st.tuples(st.integers(0, WORKERS - 1), st.sampled_from(DEEDS)), max_size=30))
def test_any_course_of_things(units, course):
    with tempfile.TemporaryDirectory() as folder:
        office = Office(Path(folder), units)
        done, errors, deaths = set(), dict.fromkeys(office.units, 0), dict.fromkeys(office.units, 0)
        dead = []

        def hopeless(unit):
            return errors[unit] >= ATTEMPTS or deaths[unit] >= MAX_DEATHS

        def claimed(unit):
            if unit is not None:
                assert unit not in done and not hopeless(unit)
                assert [lease.unit for lease in office.held.values()].count(unit) == 1  # never two of the living

        for worker, deed in course:
            if deed == "pause":
                office.pause(2 * LEASE)
                for unit in dead:  # the others have seen it
                    deaths[unit] += 1
                dead.clear()
            elif deed == "claim" and worker not in office.held:
                claimed(office.claim(worker))
            elif worker in office.held:
                if deed == "finish":
                    done.add(office.finish(worker))
                elif deed == "fail":
                    errors[office.fail(worker)] += 1
                elif deed == "let_go":
                    office.held.pop(worker).let_go()
                elif deed == "die":
                    dead.append(office.held.pop(worker).unit)
                    office.ledgers[worker] = office.ledger(f"worker-{worker}-again")
        assert {unit for unit in office.units if office.ledgers[0].is_done(unit)} == done

        # Whatever happened, workers that go on get everything done but what is hopeless.
        for _ in range(100):
            office.pause(LEASE)
            for worker in range(WORKERS):
                if worker not in office.held:
                    office.claim(worker)
                if worker in office.held:
                    done.add(office.finish(worker))
            if all(ledger.settled() for ledger in office.ledgers):
                break
        given_up = {unit for unit in office.units if errors[unit] >= ATTEMPTS and unit not in done}
        assert set(office.ledgers[0].given_up()) == given_up
        assert done | given_up == set(office.units)
        assert office.ledgers[0].forget_failures() >= ATTEMPTS * len(given_up)
        assert not office.ledgers[0].given_up() and office.ledgers[0].complete() == (not given_up)


@pytest.fixture
def office(tmp_path):
    return Office(tmp_path, 2)


def test_one_of_several_gets_a_unit(office):
    assert [office.claim(worker) for worker in range(WORKERS)] == ["000000", "000001", None]


def test_a_unit_that_kills_its_workers_is_given_up(office):
    office.claim(1)
    office.finish(1)
    for _ in range(MAX_DEATHS):
        assert office.claim(0) == "000000"
        office.held.pop(0)
        assert office.claim(0) is None  # looks for the first time
        office.seconds += 2 * LEASE
    assert office.claim(0) is None
    assert office.ledgers[0].given_up() == ["000000"] and office.ledgers[0].settled()
    assert office.ledgers[0].last_failure("000000").reason == "its worker worker-0 gave no sign of life any more"


def test_a_mark_whose_file_is_gone_or_cut_counts_no_more(office):
    office.claim(0)
    unit = office.finish(0)
    assert office.ledger("fresh").is_done(unit)
    (office.folder / unit).write_text("cut")
    assert not office.ledger("fresh").is_done(unit)
    (office.folder / unit).unlink()
    fresh = office.ledger("fresh")
    assert not fresh.is_done(unit) and fresh.claim().unit == "000001" and fresh.claim().unit == unit


def test_a_unit_that_failed_rests_longest_for_the_worker_that_failed_it(office):
    office.claim(1)
    office.finish(1)
    office.claim(0)
    office.fail(0)
    assert office.claim(1) is None and office.claim(0) is None
    office.seconds += 1.1 * LEASE / ledger_module.RESTS
    assert office.claim(0) is None and office.claim(1) == "000000"


def test_a_lease_that_was_taken_over_is_lost_to_its_owner(office):
    office.claim(0)
    lease = office.held[0]
    for _ in range(2):
        office.claim(1)
        office.held.pop(1, None)
        office.seconds += 2 * LEASE
        taken = office.ledgers[2].claim()
    assert taken.attempt == 2
    lease.beat()
    assert lease.lost


def test_progress_of_a_folder_without_a_generation(tmp_path):
    with pytest.raises(AdhmrError, match="no shared work has begun here"):
        generation_progress(tmp_path)
