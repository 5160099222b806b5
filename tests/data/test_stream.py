import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from adhmr.config.data import DataConfig
from adhmr.data.loader_process import IGNORED_SIGNALS
from adhmr.data.shard_reader import ShardReader
from adhmr.data.stream import build_stream, iterate_set, make_plan, open_sets
from adhmr.errors import AdhmrError


def noted(sample, key):
    """A transform that shows what was loaded and with which randomness."""
    return {
        "mean": sample.image.mean(axis=(0, 1)).astype(np.float32),
        "noise": float(key.rng("noise").random()),
        "flag": 1,
        "key": f"{sample.dataset}/{sample.key}",
    }


@pytest.fixture
def mixture(make_set):
    config = DataConfig(
        sets=[
            {"path": str(make_set("alpha", 25)), "weight": 0.6},
            {"path": str(make_set("beta", 13)), "weight": 0.4},
        ],
        period=20,
        block=4,
        window=2,
    )
    readers = open_sets(config)
    return readers, make_plan(readers, config, seed=5)


def steps_of(mixture, *, world_size=1, micro_batch=24, start=0, stop=4, **options):
    """For each step, the samples of all ranks in order of position."""
    readers, plan = mixture
    accumulation = 24 // (world_size * micro_batch)
    found = {step: [] for step in range(start, stop)}
    for rank in range(world_size):
        stream = build_stream(
            readers,
            plan,
            noted,
            global_batch=24,
            micro_batch=micro_batch,
            rank=rank,
            world_size=world_size,
            start_step=start,
            stop_step=stop,
            **options,
        )
        for number, batch in enumerate(stream):
            assert len(batch["key"]) == micro_batch
            columns = (batch["position"].tolist(), batch["key"], batch["noise"].tolist(), batch["mean"].tolist())
            found[start + number // accumulation] += zip(*columns, strict=True)
    return {step: sorted(rows, key=lambda row: row[0]) for step, rows in found.items()}


def test_global_batches_do_not_depend_on_the_world(mixture):
    straight = steps_of(mixture)
    assert [row[0] for row in straight[3]] == list(range(72, 96))
    for world_size, micro_batch in ((1, 1), (1, 8), (2, 12), (2, 4), (4, 3), (8, 3), (8, 1)):
        assert steps_of(mixture, world_size=world_size, micro_batch=micro_batch) == straight


def test_workers_change_nothing_and_any_step_can_be_entered(mixture):
    straight = steps_of(mixture, stop=6)
    assert steps_of(mixture, stop=6, micro_batch=4, workers=2) == straight
    for start in range(1, 6):
        resumed = steps_of(mixture, start=start, stop=6, world_size=2, micro_batch=6)
        assert resumed == {step: straight[step] for step in range(start, 6)}


def test_collated_types(mixture):
    readers, plan = mixture
    batch = next(build_stream(readers, plan, noted, global_batch=6, micro_batch=6, stop_step=1))
    assert batch["position"].dtype == torch.int64 and batch["flag"].dtype == torch.int64
    assert batch["noise"].dtype == torch.float32 and batch["mean"].shape == (6, 3)
    assert all(isinstance(key, str) for key in batch["key"])


@pytest.mark.parametrize("cuda", [False, True])
def test_batches_are_pinned_where_there_is_a_gpu(mixture, monkeypatch, cuda):
    asked = []

    def loader(*arguments, **options):
        asked.append(options["pin_memory"])
        return []

    monkeypatch.setattr("adhmr.data.stream.DataLoader", loader)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    readers, plan = mixture
    assert list(build_stream(readers, plan, noted, global_batch=6, micro_batch=6, stop_step=1)) == []
    assert asked == [cuda]


def test_batches_that_do_not_divide_are_refused(mixture):
    with pytest.raises(AdhmrError, match="global_batch 24 is not a multiple of 5 processes x micro_batch 2 = 10"):
        steps_of(mixture, world_size=5, micro_batch=2)


def corrupt(reader, row):
    """Flip one bit in the middle of a sample's JPEG."""
    location = reader.index.locate(row)
    offset, size = location.members["jpg"]
    with open(reader.index.folder / location.shard, "r+b") as file:
        file.seek(location.start + offset + size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def test_a_corrupt_sample_is_replaced_by_the_same_one_everywhere(mixture, tmp_path):
    readers, _ = mixture
    straight = steps_of(mixture)
    corrupt(readers[0], 3)
    quarantine = tmp_path / "run" / "quarantine.jsonl"
    replaced = steps_of(mixture, quarantine=quarantine)
    lines = [json.loads(line) for line in quarantine.read_text().splitlines()]
    named = {(line["dataset"], line["shard"], line["key"]) for line in lines}
    assert named == {("alpha", "000000.tar", "person-00003")}
    assert "checksum" in lines[0]["error"]
    before, after = ({row[0]: row[1] for rows in steps.values() for row in rows} for steps in (straight, replaced))
    changed = [position for position in before if before[position] != after[position]]
    assert sorted({line["position"] for line in lines}) == changed != []
    assert all(before[position] == "alpha/person-00003" for position in changed)
    assert all(after[position].startswith("alpha/") for position in changed)
    assert steps_of(mixture, world_size=4, micro_batch=2) == replaced


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_corrupt_samples_end_the_run(mixture, workers):
    readers, _ = mixture
    for row in range(12):
        corrupt(readers[1], row)
    with pytest.raises(AdhmrError, match=r"^\d+ of the last \d+ samples are corrupt.*data set beta"):
        steps_of(mixture, micro_batch=2, workers=workers)


def test_a_shard_that_vanishes_during_the_run_is_reported(mixture, monkeypatch):
    monkeypatch.setattr("adhmr.data.stream.READ_PAUSE_SECONDS", 0)
    readers, _ = mixture
    for name in readers[1].index.shard_names:
        (readers[1].index.folder / name).unlink()
    with pytest.raises(AdhmrError, match=r"data set beta.*cannot be read"):
        steps_of(mixture)


def test_a_failing_file_system_is_asked_again(mixture, monkeypatch):
    monkeypatch.setattr("adhmr.data.stream.READ_PAUSE_SECONDS", 0)
    straight, pread, calls = steps_of(mixture), os.pread, []

    def flaky(*arguments):
        calls.append(arguments)
        if len(calls) % 3:
            raise OSError("stale file handle")
        return pread(*arguments)

    monkeypatch.setattr(os, "pread", flaky)
    assert steps_of(mixture) == straight


def test_an_ordered_pass_gives_each_row_once(make_set):
    folder = make_set(count=23)
    for workers in (0, 2):
        batches = list(iterate_set(folder, noted, 5, workers))
        assert [len(batch["key"]) for batch in batches] == [5, 5, 5, 5, 3]
        assert torch.cat([batch["position"] for batch in batches]).tolist() == list(range(23))
    assert len(list(iterate_set(folder, noted, 5, limit=7))) == 2
    part = list(iterate_set(folder, noted, 5, rows=range(10, 20), limit=6))
    assert [batch["position"].tolist() for batch in part] == [[10, 11, 12, 13, 14], [15]]


def test_an_ordered_pass_refuses_or_reports_corrupt_samples(make_set, tmp_path):
    folder = make_set(count=12)
    corrupt(ShardReader(folder), 4)
    with pytest.raises(AdhmrError, match="person-00004"):
        list(iterate_set(folder, noted, 5))
    batches = list(iterate_set(folder, noted, 5, quarantine=tmp_path / "quarantine.jsonl"))
    assert [row for batch in batches for row in batch["position"].tolist()] == [*range(4), *range(5, 12)]
    assert "person-00004" in (tmp_path / "quarantine.jsonl").read_text()


LOADING = """
import sys, time
from adhmr.data.stream import iterate_set
def slow(sample, key):
    time.sleep(0.2)
    return {"key": sample.key}
if __name__ == "__main__":
    for batch in iterate_set(sys.argv[1], slow, 1, workers=2):
        print(batch["key"][0], flush=True)
"""


def test_a_trainer_may_exit_while_its_workers_load(make_set, tmp_path):
    """Requeueing means leaving with a code in the middle of an epoch, with the stream still referenced."""
    script = tmp_path / "leave.py"
    script.write_text(
        LOADING.replace("for batch in iterate_set", "stream = iterate_set").replace(
            "workers=2):", "workers=2)\n    for batch in stream:\n        sys.exit(85)"
        )
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), str(make_set(count=200))]
    assert subprocess.run(command, env=environment, timeout=240, check=False).returncode == 85


def descendants(pid):
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parent = int(Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, ValueError):
                continue
            if parent == pid:
                found += [int(entry), *descendants(int(entry))]
    return found


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_ignore_the_jobs_signals_and_end_with_the_trainer(make_set, tmp_path):
    script = tmp_path / "load.py"
    script.write_text(LOADING)
    process = subprocess.Popen(
        [sys.executable, str(script), str(make_set(count=200))],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert process.stdout.readline() == "person-00000\n"
        children = descendants(process.pid)
        assert len(children) >= 3  # the server and two workers
        for number in IGNORED_SIGNALS:
            for child in children:
                os.kill(child, number)
        keys = [process.stdout.readline() for _ in range(12)]
        assert keys == [f"person-{row:05d}\n" for row in range(1, 13)]
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + 60
    while any(running(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [child for child in children if running(child)]
