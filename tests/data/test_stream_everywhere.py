"""The same samples whatever reads them: worlds, micro-batches, workers, hosts, damaged shards. Byte for byte."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from adhmr.config.data import DataConfig, PhaseConfig
from adhmr.data.loader_process import LoaderProcess
from adhmr.data.shard_writer import ShardWriter
from adhmr.data.step_plan import StepPlan
from adhmr.data.stream import build_stream, make_plan, open_sets
from adhmr.errors import AdhmrError

BATCH, STEPS = 48, 3


def seen(sample, key):
    """A digest of all that a sample is and of what it draws."""
    digest = hashlib.sha1(sample.image.tobytes() + bytes(sample.record) + key.rng("noise").bytes(8))
    return {"digest": digest.hexdigest(), "key": f"{sample.dataset}/{sample.key}"}


def configured(*folders):
    weights = (0.6, 0.4)
    sets = [{"path": str(folder), "weight": weight} for folder, weight in zip(folders, weights, strict=True)]
    return DataConfig(sets=sets, period=20, block=4, window=2)


@pytest.fixture
def config(make_set):
    return configured(make_set("alpha", 25), make_set("beta", 13))


@pytest.fixture
def mixture(config):
    readers = open_sets(config)
    return readers, make_plan(readers, config, seed=5)


def drawn(mixture, world_size=1, micro_batch=None, **options):
    """(position, key, digest) of all ranks, in order of position."""
    readers, plan = mixture
    rows = []
    for rank in range(world_size):
        batches = {"global_batch": BATCH, "micro_batch": micro_batch, "stop_step": STEPS}
        for batch in build_stream(readers, plan, seen, rank=rank, world_size=world_size, **{**batches, **options}):
            rows += zip(batch["position"].tolist(), batch["key"], batch["digest"], strict=True)
    return sorted(rows)


# ------------------------------------------------------------------------------------------------ worlds
def test_worlds_and_micro_batches(mixture):
    straight = drawn(mixture)
    assert [row[0] for row in straight] == list(range(STEPS * BATCH))
    for world_size in (1, 2, 3, 4, 8, 12, 16):
        share = BATCH // world_size
        for micro_batch in {1, 3, share} if share % 3 == 0 else {1, share}:
            assert drawn(mixture, world_size, micro_batch) == straight, (world_size, micro_batch)


@pytest.mark.parametrize("workers", [1, 3])
def test_workers(mixture, workers):
    assert drawn(mixture, 2, 8, workers=workers) == drawn(mixture)


def test_any_step_can_be_entered(mixture):
    straight = drawn(mixture)
    for start in range(STEPS):
        assert drawn(mixture, 4, 6, start_step=start) == straight[start * BATCH :]


def test_batches_that_change(mixture, config):
    readers, plan = mixture
    phases = [
        PhaseConfig(from_step=2, global_batch=12, weights={"alpha": 1.0}),
        PhaseConfig(from_step=5, global_batch=24),
    ]
    step_plan = StepPlan(plan, 24, phases)
    options = {"global_batch": step_plan.sizes, "stop_step": 9}
    straight = drawn((readers, step_plan.plan), **options)
    assert [row[0] for row in straight] == list(range(2 * 24 + 3 * 12 + 4 * 24))
    assert {key.split("/")[0] for _, key, _ in straight[48:]} == {"alpha"}
    for world_size, micro_batch in ((1, 4), (2, 6), (3, None), (4, 3), (12, 1)):
        assert drawn((readers, step_plan.plan), world_size, micro_batch, **options) == straight
    for start in range(9):
        assert drawn((readers, step_plan.plan), 2, 3, **options, start_step=start) == [
            row for row in straight if row[0] >= step_plan.position_of_step(start)
        ]


ELSEWHERE = """
import sys
from tests.data.test_stream_everywhere import configured, drawn
from adhmr.data.stream import make_plan, open_sets
config = configured(*sys.argv[1:])
readers = open_sets(config)
print(drawn((readers, make_plan(readers, config, seed=5)), 4, 3))
"""


def test_another_host_draws_the_same(config, mixture, tmp_path):
    """Another working folder, another mount of the same data, no communication."""
    other = tmp_path / "mount" / "elsewhere"
    for item in config.sets:
        shutil.copytree(item.path, other / Path(item.path).name)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", ELSEWHERE, "elsewhere/alpha", "elsewhere/beta"]
    output = subprocess.run(
        command, cwd=other.parent, env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert output.stdout.strip() == str(drawn(mixture))


# ------------------------------------------------------------------------------------------------ damage
def test_a_shard_cut_off_after_it_was_opened_is_replaced_alike(mixture, tmp_path):
    straight = dict((position, rest) for position, *rest in drawn(mixture))
    readers, _ = mixture
    shard = readers[0].index.folder / "000002.tar"  # rows 20 to 24 of alpha
    os.truncate(shard, readers[0].index.locate(22).start)
    replaced = {}
    for world_size, micro_batch, workers in ((1, 48, 0), (4, 3, 0), (16, 1, 0), (2, 6, 1)):
        log = tmp_path / f"{world_size}.jsonl"
        options = {"quarantine": log, "max_corrupt_fraction": 0.9, "workers": workers}
        replaced[world_size] = drawn(mixture, world_size, micro_batch, **options)
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert {line["key"] for line in lines} == {f"person-{row:05d}" for row in (22, 23, 24)}
        assert all(line["shard"] == "000002.tar" and "bytes could be read" in line["error"] for line in lines)
    assert replaced[4] == replaced[1] and replaced[16] == replaced[1] and replaced[2] == replaced[1]
    changed = {position for position, *rest in replaced[1] if rest != straight[position]}
    assert changed and all(straight[position][0][-2:] in ("22", "23", "24") for position in changed)


@pytest.mark.skipif(sys.platform != "linux", reason="kills processes")
def test_a_killed_worker_is_an_error_and_no_hang(mixture, monkeypatch):
    started = []
    start = LoaderProcess.start
    monkeypatch.setattr(LoaderProcess, "start", lambda self: (started.append(self), start(self)))
    readers, plan = mixture
    stream = build_stream(readers, plan, seen, global_batch=4, stop_step=10**6, workers=2)
    next(stream)
    os.kill(started[0].pid, signal.SIGKILL)
    begun = time.monotonic()
    with pytest.raises(AdhmrError, match=r"a loader process was killed .*fewer `workers`"):
        for _ in stream:
            pass
    assert time.monotonic() - begun < 60


# ------------------------------------------------------------------------------------------------ changed data
def test_a_changed_shard_is_refused_by_its_fingerprint(config, mixture, write_samples, make_jpeg_of):
    _, plan = mixture
    state = json.loads(json.dumps(StepPlan(plan, BATCH).state_dict(2)))
    folder = Path(config.sets[1].path)
    shutil.rmtree(folder)
    with ShardWriter(folder, source="test", split="train", licence="CC0", samples_per_shard=10) as writer:
        write_samples(writer, 0, 12)
        writer.write("person-00012", *make_jpeg_of(99), {"number": 12})  # the same key, another person
    readers = open_sets(config)
    with pytest.raises(AdhmrError, match=r"data set beta has changed since the checkpoint of step 2 .*fingerprint"):
        StepPlan(make_plan(readers, config, seed=5), BATCH).resumed(state)


@pytest.fixture
def make_jpeg_of(make_record):
    from tests.data.conftest import make_jpeg

    def make(seed):
        return make_jpeg(np.random.default_rng(seed)), make_record(np.random.default_rng(seed))

    return make
