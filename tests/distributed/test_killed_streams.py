"""Three data sets, phases, a skipped range, and SIGKILL at random moments: the global batches are always the same."""

import random
import time
from collections import defaultdict

import pytest

from adhmr.data.shard_writer import ShardWriter
from tests.data.conftest import _write_samples
from tests.distributed.consumer import SERVER, last_state, logged, shard_data, start

STEPS = 60
TRAIN = {"steps": STEPS, "global_batch": 8}
PATIENCE = 120  # seconds for the processes to make a step: machines are shared


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    for name, count in (("alpha", 33), ("beta", 14), ("gamma", 9)):
        with ShardWriter(root / name, source="test", split="train", licence="CC0", samples_per_shard=10) as writer:
            _write_samples(writer, 0, count)
    sets = [
        {"path": str(root / "alpha"), "weight": 0.7},
        {"path": str(root / "beta"), "weight": 0.3},
        {"path": str(root / "gamma"), "weight": 0},
    ]
    phases = [
        {"from_step": 20, "weights": {"alpha": 0.4, "beta": 0.2, "gamma": 0.4}},
        {"from_step": 37, "weights": {"beta": 0.5, "gamma": 0.5}, "global_batch": 16},
    ]
    return {"sets": sets, "period": 20, "block": 4, "window": 2, "phases": phases, "skip_ranges": [(100, 117)]}


@pytest.fixture(scope="module")
def uninterrupted(mixture):
    """step -> rows of its global batch, from one process without workers that nobody interrupts."""
    import hashlib

    data = shard_data({**mixture, "workers": 0}, TRAIN)
    batches = {}
    for step, batch in enumerate(data.stream(0, 0, 1)):
        hashes = [hashlib.sha1(image.numpy().tobytes()).hexdigest() for image in batch["image"]]
        rows = zip(batch["position"].tolist(), batch["key"], hashes, strict=True)
        batches[step] = [list(row) for row in rows]
    assert [len(batches[step]) for step in (0, 36, 37, 59)] == [8, 8, 16, 16]
    assert {key.split("/")[0] for _, key, _ in batches[59]} == {"beta", "gamma"}
    return batches


def made(folder, rank):
    """Lines in a rank's log."""
    path = folder / f"rank-{rank}.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ten_kills_change_nothing(world_size, mixture, uninterrupted, tmp_path):
    chance = random.Random(world_size)
    kills, state = 0, None
    while True:
        # In every second attempt one rank has 1 to 3 loader processes: starting them is what takes the time.
        workers = [0] * world_size
        workers[chance.randrange(world_size)] = (1, 0, 2, 0, 3, 0)[kills % 6]
        before = [len(lines) for lines in logged(tmp_path)] or [0] * world_size
        together = SERVER.Barrier(world_size)
        processes = start(tmp_path, mixture, TRAIN, workers, state, together)
        if kills == 10:
            for process in processes:
                process.join(PATIENCE)
            assert [process.exitcode for process in processes] == [0] * world_size
            break
        # A few steps of this attempt by every rank, but never to the end; then at any moment of the next step.
        until = time.monotonic() + PATIENCE
        left = STEPS - (state["step"] if state else 0)
        enough = min(chance.randint(2, 7), left - 1)
        while any(made(tmp_path, rank) < before[rank] + enough for rank in range(world_size)):
            assert time.monotonic() < until, "the ranks make no steps"
            time.sleep(0.001)
        time.sleep(0.005 * chance.random())
        for process in processes:
            process.kill()
        for process in processes:
            process.join(PATIENCE)
        kills += 1
        finished = min(max((step for step, _ in lines), default=-1) for lines in logged(tmp_path)) + 1
        state = last_state(tmp_path, finished)
    steps = defaultdict(dict)
    for lines in logged(tmp_path):
        for step, rows in lines:
            for position, key, digest in rows:
                # A step that was made again after a kill had the same samples.
                assert steps[step].setdefault(position, (key, digest)) == (key, digest)
    assert sorted(steps) == list(range(STEPS))
    for step, batch in uninterrupted.items():
        assert [[position, *steps[step][position]] for position in sorted(steps[step])] == batch
