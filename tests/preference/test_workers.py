"""Generation by many workers that are killed, stopped, told to leave, or wrong about the time: the bytes of one."""

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from adhmr.data.shard_writer import ShardWriter
from adhmr.preference.progress import failed_units, generation_progress, retry_failed
from adhmr.signals import EXIT_REQUEUE
from tests.data.conftest import _write_samples
from tests.preference.crew import await_that, config, marked, message, records, results, start, wait

WORKERS = 4
IMAGES = {"alpha": 80, "beta": 40}  # 20 and 10 units


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> list[Path]:
    root = tmp_path_factory.mktemp("sets")
    for name, count in IMAGES.items():
        with ShardWriter(root / name, source="test", split="train", licence="CC0", samples_per_shard=16) as writer:
            _write_samples(writer, 0, count)
    return [root / name for name in IMAGES]


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory) -> dict[str, str]:
    """What one undisturbed worker writes."""
    output = tmp_path_factory.mktemp("alone") / "out"
    assert wait(start(config(output, data))) == [0]
    found = results(output)
    # For 2 sets x 2 rankings: the shards and their sidecars, 3 files of the index, statistics, request.
    assert len(found) == 2 * (2 * 20 + 5) + 2 * (2 * 10 + 5)
    return found


# ------------------------------------------------------------------------------------------------ killed
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_ten_kills_at_random_moments(seed, data, alone, tmp_path):
    chance = random.Random(seed)
    stage = config(tmp_path / "out", data)
    crew = [start(stage, pace=0.08) for _ in range(WORKERS)]
    await_that(lambda: marked(tmp_path / "out"))
    for _ in range(10):
        time.sleep(0.2 * chance.random())
        victim = crew.pop(chance.randrange(WORKERS))
        assert victim.is_alive(), "the work was over before the tenth kill"
        victim.kill()
        victim.join()
        crew.append(start(stage, pace=0.08))
    assert wait(*crew) == [0] * WORKERS
    assert results(tmp_path / "out") == alone
    assert generation_progress(tmp_path / "out").done == 30


def test_kill_of_the_writer_of_the_index(data, alone, tmp_path):
    stage = config(tmp_path / "out", data)
    assert wait(start(stage, die_closing=True)) == [-signal.SIGKILL]
    assert (tmp_path / "out/alpha-random/index.json").exists() and marked(tmp_path / "out") == 20
    assert wait(start(stage), start(stage)) == [0, 0]
    assert results(tmp_path / "out") == alone


def test_units_whose_worker_died_before_marking_them_are_not_made_again(data, alone, tmp_path):
    stage = config(tmp_path / "out", data)
    assert wait(start(stage)) == [0]
    shutil.rmtree(tmp_path / "out/ledger")
    shard = tmp_path / "out/alpha-random/000003.tar"
    before = shard.stat().st_mtime_ns
    shard.with_name("000004.tar").unlink()
    assert wait(start(stage)) == [0]
    assert results(tmp_path / "out") == alone and shard.stat().st_mtime_ns == before


# ------------------------------------------------------------------------------------------------ told to leave
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_worker_that_is_told_to_leave_frees_its_unit_at_once(number, data, alone, tmp_path):
    stage = config(tmp_path / "out", data, ledger={"lease_seconds": 600})  # longer than the test waits
    leaving = start(stage, pace=0.1)
    await_that(lambda: marked(tmp_path / "out") > 0)
    begin = time.monotonic()
    os.kill(leaving.pid, number)
    assert wait(leaving) == [EXIT_REQUEUE]
    assert time.monotonic() - begin < 2  # after its batch, not after its unit
    assert not [name for name in results(tmp_path / "out") if name.endswith(".tmp")]
    assert wait(start(stage)) == [0]
    assert results(tmp_path / "out") == alone and not records(tmp_path / "out", "failed")


def test_a_waiting_worker_leaves_too_and_takes_over_when_another_leaves(data, alone, tmp_path):
    stage = config(tmp_path / "out", data[1:], unit=40, ledger={"lease_seconds": 20})  # one unit
    busy = start(stage, pace=0.1)
    await_that(lambda: records(tmp_path / "out", "leases"))
    waiting, leaving = start(stage), start(stage)
    await_that(lambda: generation_progress(tmp_path / "out").workers == 3)
    os.kill(leaving.pid, signal.SIGTERM)
    assert wait(leaving) == [EXIT_REQUEUE]
    os.kill(busy.pid, signal.SIGTERM)
    begin = time.monotonic()
    assert wait(busy, waiting) == [EXIT_REQUEUE, 0]
    assert time.monotonic() - begin < 10  # not after the lease
    assert generation_progress(tmp_path / "out").workers == 0


# ------------------------------------------------------------------------------------------------ duplicates, clocks
def test_a_worker_that_was_thought_dead_does_no_harm(data, alone, tmp_path):
    """It freezes in the middle of a unit, the others take over and end, it goes on: two wrote the same shard."""
    stage = config(tmp_path / "out", data)
    frozen = start(stage, pace=0.1)
    await_that(lambda: marked(tmp_path / "out") > 0)
    time.sleep(0.15)
    os.kill(frozen.pid, signal.SIGSTOP)
    held = records(tmp_path / "out", "leases")
    assert wait(start(stage), start(stage)) == [0, 0]
    assert results(tmp_path / "out") == alone
    (died,) = records(tmp_path / "out", "failed")
    assert died.endswith(".1.died.json") and died.split(".")[0] + ".1" in held
    os.kill(frozen.pid, signal.SIGCONT)
    assert wait(frozen) == [0]
    assert results(tmp_path / "out") == alone


def test_all_workers_think_the_others_dead(data, alone, tmp_path):
    """Frozen together and woken together: duplicates of one another, each on the unit of a former lease."""
    stage = config(tmp_path / "out", data)
    crew = [start(stage, pace=0.05) for _ in range(3)]
    await_that(lambda: marked(tmp_path / "out") > 0)
    for turn in range(2):
        for process in crew:
            os.kill(process.pid, signal.SIGSTOP)
        late = start(stage, pace=0.05)
        await_that(lambda turn=turn: len(records(tmp_path / "out", "failed")) > turn)
        for process in crew:
            os.kill(process.pid, signal.SIGCONT)
        crew.append(late)
    assert wait(*crew) == [0] * 5
    assert results(tmp_path / "out") == alone


def test_clocks_of_hosts_that_differ_by_hours(data, alone, tmp_path):
    stage = config(tmp_path / "out", data, ledger={"lease_seconds": 10.0})  # a busy machine is no death
    crew = [start(stage, pace=0.05, skew=skew) for skew in (-7200.0, -2.0, 3.0, 7200.0)]
    assert wait(*crew) == [0] * 4
    assert results(tmp_path / "out") == alone
    assert not records(tmp_path / "out", "failed")  # nobody was thought dead
    assert {name.split(".")[1] for name in records(tmp_path / "out", "leases")} == {"1"}


@pytest.mark.parametrize("skew", [-7200.0, 7200.0])
def test_the_dead_are_found_whatever_their_clock_was(skew, data, alone, tmp_path):
    stage = config(tmp_path / "out", data)
    dying = start(stage, pace=0.1, skew=skew)
    await_that(lambda: marked(tmp_path / "out") > 0)
    dying.kill()
    begin = time.monotonic()
    assert wait(start(stage)) == [0]
    assert time.monotonic() - begin < 10
    assert results(tmp_path / "out") == alone


# ------------------------------------------------------------------------------------------------ what fails
def test_a_unit_that_always_fails_stops_no_other(data, alone, tmp_path):
    broken = tmp_path / "broken" / "alpha"
    shutil.copytree(data[0], broken)
    shard = broken / "000001.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:1000] + bytes(20000) + whole[21000:])  # of units 4 and further
    stage = config(tmp_path / "out", [broken, data[1]])
    crew = [start(stage), start(stage)]
    assert wait(*crew) == [2, 2]
    failed = failed_units(tmp_path / "out")
    assert [failure.unit for _, failure in failed] == ["000004", "000005"][: len(failed)] and failed
    assert all(failure.attempt == 3 and "checksum" in failure.reason for _, failure in failed)
    for process in crew:
        text = message(stage, process)
        assert f"all other units are done, but {len(failed)} failed" in text and "delete these folders" in text
        assert "unit 000004, attempt 3: data set alpha, 000001.tar, sample person-00016: its bytes differ" in text
    progress = generation_progress(tmp_path / "out")
    assert (progress.done, progress.total, progress.failed) == (30 - len(failed), 30, len(failed))
    assert not (tmp_path / "out/alpha-random/index.json").exists()
    beta = {name: value for name, value in alone.items() if name.startswith("beta")}
    assert {name: value for name, value in results(tmp_path / "out").items() if name.startswith("beta")} == beta
    # Again without a correction: no further attempts.
    assert wait(start(stage)) == [2]
    assert [failure.attempt for _, failure in failed_units(tmp_path / "out")] == [3] * len(failed)
    # Corrected, and tried again.
    shard.write_bytes(whole)
    assert retry_failed(tmp_path / "out") == len(failed)
    assert wait(start(stage)) == [0]
    assert results(tmp_path / "out") == alone


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(small_disk, data, tmp_path):
    assert wait(start(config(tmp_path / "roomy", data), image_bytes=20_000)) == [0]
    stage = config(small_disk / "out", data)
    crew = [start(stage, image_bytes=20_000), start(stage, image_bytes=20_000)]
    assert wait(*crew) == [2, 2]
    for process in crew:
        assert f"{small_disk / 'out'}: cannot be written: No space left on device" in (text := message(stage, process))
        assert "make room, then start the same command again" in text
    roomy, found = results(tmp_path / "roomy"), results(small_disk / "out")
    assert 0 < len(found) < len(roomy)
    assert all(roomy[name] == value for name, value in found.items())  # whole files alone, nothing half written
    assert not records(small_disk / "out", "failed")  # no unit is to blame
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    assert wait(start(stage, image_bytes=20_000)) == [0]
    assert results(small_disk / "out") == roomy


# ------------------------------------------------------------------------------------------------ what it costs
def test_a_worker_never_has_a_unit_in_memory(data, tmp_path):
    stage = config(tmp_path / "out", data[:1], unit=80, ledger={"lease_seconds": 60})  # 160 MB in one unit
    assert wait(start(stage, image_bytes=1_000_000, memory=60_000_000)) == [0]
