"""Generation workers in real processes, with a cheap generator in place of the networks: what a sample holds is a
function of its row alone. They come from a fork server, so that a start costs a tenth of a second."""

import hashlib
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch

from adhmr.config.generation import GenerateStage
from adhmr.data.randomness import generator_for
from adhmr.data.shard_reader import ShardReader
from adhmr.data.shard_writer import ShardSample
from adhmr.errors import AdhmrError
from adhmr.preference import generate, preference_set
from adhmr.preference.preference_set import Batch
from adhmr.preference.records import PAIR_DTYPE, encode_array
from adhmr.signals import StopRequest

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.preference.crew"])


class CheapGenerator:
    """pace: seconds a batch. image_bytes: size of each stored image."""

    device = torch.device("cpu")

    def __init__(self, config: GenerateStage, pace: float, image_bytes: int):
        self.config, self.pace, self.image_bytes = config, pace, image_bytes
        self.provenance = {"base": "cheap", "image_bytes": image_bytes}

    def batches(self, reader: ShardReader, rows: range, rankings: list[str]) -> Iterator[Batch]:
        for row in rows:
            time.sleep(self.pace)
            raw = reader.read(row)
            yield partial(self._samples, raw, row, rankings)

    def _samples(self, raw, row: int, rankings: list[str]) -> dict[str, list[ShardSample]]:
        return {ranking: [self._sample(raw, row, ranking)] for ranking in rankings}

    def _sample(self, raw, row: int, ranking: str) -> ShardSample:
        rng = generator_for(row, ranking)
        pairs = np.zeros(2, PAIR_DTYPE)
        for name in ("winner_value", "loser_value", "winner_error", "loser_error"):
            pairs[name] = rng.random(2)
        return ShardSample(raw.key, rng.bytes(self.image_bytes), raw.record, {}, {"pairs.npy": encode_array(pairs)})

    def check_device(self) -> None:
        pass


def config(output: Path, data: list[Path], **changes) -> GenerateStage:
    """Units of four images, a ledger that is quick to believe in deaths."""
    values = {
        "stage": "generate",
        "output": output,
        "base": "none",
        "sets": [{"path": path, "rankings": ["random", "mode"]} for path in data],
        "crop": {"size": 64},
        "unit": 4,
        "ledger": {"lease_seconds": 1.0},
    }
    return GenerateStage(**{**values, **changes})


def work(
    config: GenerateStage,
    pace: float = 0.0,
    image_bytes: int = 500,
    skew: float = 0.0,
    die_closing: bool = False,
    memory: int | None = None,
) -> None:
    """A worker, to its end. skew: seconds by which its host's clock is wrong, also in the times that it gives to files.
    die_closing: it is killed when it has written the index and begins with the statistics. memory: bytes that it may
    take beside those that it has."""
    torch.set_num_threads(1)
    if memory is not None:
        status = Path("/proc/self/status").read_text().splitlines()
        taken = 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmData"))
        resource.setrlimit(resource.RLIMIT_DATA, (taken + memory, taken + memory))
    if skew:
        _skew_clocks(skew)
    if die_closing:
        preference_set.pair_statistics = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
    try:
        with StopRequest(margin=0) as stop:
            generate.generate(CheapGenerator(config, pace, image_bytes), stop)
    except AdhmrError as error:
        _error_file(config, os.getpid()).write_text(str(error))
        sys.exit(error.exit_code)


def _skew_clocks(seconds: float) -> None:
    """As on a file system that takes the writing host's clock for the times of files."""
    real_time, real_utime = time.time, os.utime

    def skewed_utime(path, times=None, **options):
        now = real_time() + seconds
        real_utime(path, (now, now) if times is None else times, **options)

    time.time, os.utime = (lambda: real_time() + seconds), skewed_utime


def start(config: GenerateStage, **settings) -> BaseProcess:
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # the fork server is started from it
    process = SERVER.Process(target=work, args=(config,), kwargs=settings)
    process.start()
    return process


def wait(*processes: BaseProcess, seconds: float = 60) -> list[int | None]:
    """Exit codes; fails when one does not end."""
    for process in processes:
        process.join(seconds)
    hung = [process.pid for process in processes if process.is_alive()]
    for process in processes:
        process.kill()
    assert not hung, f"workers {hung} did not end"
    return [process.exitcode for process in processes]


def message(config: GenerateStage, process: BaseProcess) -> str:
    """The error that a worker ended with."""
    return _error_file(config, process.pid).read_text()


def _error_file(config: GenerateStage, pid: int) -> Path:
    return Path(config.sets[0].path).parent / f"error-{pid}.txt"  # the output's disk may be full


def await_that(condition, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it does not come to pass"
        time.sleep(0.005)


def results(output: Path) -> dict[str, str]:
    """Hashes of all files of the preference folders, temporary ones included."""
    return {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(output.rglob("*"))
        if path.is_file() and "ledger" not in path.relative_to(output).parts
    }


def marked(output: Path) -> int:
    return len(list(output.glob("ledger/*/done/[!.]*.json")))


def records(output: Path, kind: str) -> list[str]:
    """Names of leases, done or failed records."""
    return sorted(path.name for path in output.glob(f"ledger/*/{kind}/[!.]*"))
