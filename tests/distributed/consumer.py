"""Ranks that only consume: each reads its batches and logs, durably, what was in them. Killed and started again, as a
trainer would be, from the last step that all ranks had finished."""

import hashlib
import json
import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np

from adhmr.config.data import DataConfig
from adhmr.config.training import TrainConfig
from adhmr.data.randomness import RandomKey
from adhmr.data.schema import RawSample
from adhmr.data.steps import micro_batches
from adhmr.data.stream import open_sets
from adhmr.training.data import ShardData

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.distributed.consumer"])
SAVE_EVERY = 3


def look(sample: RawSample, key: RandomKey) -> dict:
    """The image with noise of the position, and the key."""
    noise = key.rng("noise").integers(0, 256, sample.image.shape, np.uint8)
    return {"image": sample.image ^ noise, "key": f"{sample.dataset}/{sample.key}"}


def shard_data(config: dict, train: dict) -> ShardData:
    data = DataConfig(**config)
    return ShardData(open_sets(data), data, TrainConfig(**train), 5, look)


def consume(
    log: Path, config: dict, train: dict, rank: int, world_size: int, state: dict | None, together: Barrier
) -> None:
    """Logs every step from the state's on: one line [step, [[position, key, sha1 of the bytes], ...]]. The ranks go
    step by step together, as those of a trainer do."""
    data = shard_data(config, train)
    start = 0
    if state is not None:
        data.resume(state)
        start = state["step"]
    stream = data.stream(start, rank, world_size)
    with open(log, "a", buffering=1) as file:
        for step in range(start, data.train.steps):
            rows = []
            for _ in range(micro_batches(data.sizes, step, data.train.micro_batch, world_size)[1]):
                batch = next(stream)
                hashes = [hashlib.sha1(image.numpy().tobytes()).hexdigest() for image in batch["image"]]
                rows += zip(batch["position"].tolist(), batch["key"], hashes, strict=True)
            file.write(json.dumps([step, rows]) + "\n")
            together.wait()
            if (step + 1) % SAVE_EVERY == 0 and rank == 0:
                (log.parent / f"state-{step + 1}.json").write_text(json.dumps(data.state_dict(step + 1)))


def start(
    folder: Path, config: dict, train: dict, workers: list[int], state: dict | None, together: Barrier
) -> list[BaseProcess]:
    """One process a rank, with so many loader workers each. `together`: of so many parties; it must outlive them."""
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # the fork server is started from it
    world_size = len(workers)
    processes = []
    for rank, count in enumerate(workers):
        arguments = (
            folder / f"rank-{rank}.jsonl",
            {**config, "workers": count},
            train,
            rank,
            world_size,
            state,
            together,
        )
        processes.append(SERVER.Process(target=consume, args=arguments))
    for process in processes:
        process.start()
    return processes


def logged(folder: Path) -> list[list[list]]:
    """The lines of every rank's log; a line that a kill has cut is left out."""
    ranks = []
    for path in sorted(folder.glob("rank-*.jsonl")):
        text = path.read_text()
        whole, cut = text.rsplit("\n", 1) if "\n" in text else ("", text)
        if cut:
            path.write_text(whole + "\n" if whole else "")
        ranks.append([json.loads(line) for line in whole.splitlines()])
    return ranks


def last_state(folder: Path, finished: int) -> dict | None:
    """The newest whole state of a step that all ranks have finished."""
    for step in range(finished, 0, -1):
        path = folder / f"state-{step}.json"
        if path.exists():
            try:
                return json.loads(path.read_text())
            except ValueError:
                continue  # killed while it was written
    return None
