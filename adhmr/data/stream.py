"""Batches of training samples at exact positions, and ordered passes over one data set, both as torch tensors.

Which sample comes when is in sampler.py; what a worker process is set up with is in loader_process.py.
"""

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from adhmr.config.data import DataConfig
from adhmr.data.loader_process import forkserver, set_up_worker
from adhmr.data.randomness import RandomKey
from adhmr.data.sampler import SUBSTITUTES, Plan, PlanSet
from adhmr.data.schema import RawSample
from adhmr.data.shard_reader import CorruptSampleError, ShardReader
from adhmr.data.steps import BatchSizes, StepBatches
from adhmr.errors import AdhmrError

Transform = Callable[[RawSample, RandomKey], dict]
Batch = dict[str, torch.Tensor | list[str]]

READ_ATTEMPTS = 3
READ_PAUSE_SECONDS = 0.2
CORRUPT_WINDOW = 10_000  # positions over which a process measures its share of corrupt samples
CORRUPT_AT_LEAST = 8  # so many do not end a run, however few samples were read


def open_sets(config: DataConfig) -> list[ShardReader]:
    """A reader of every set of the configuration; raises AdhmrError for folders that are not whole data sets."""
    return [ShardReader(item.path, item.name, item.filter) for item in config.sets]


def make_plan(readers: Sequence[ShardReader], config: DataConfig, seed: int) -> Plan:
    """The order of samples for the configuration's sets and first weights; raises AdhmrError as Plan does."""
    sets = [
        PlanSet(reader.name, tuple(reader.index.shard_counts), item.weight, reader.index.fingerprint, item.settings)
        for reader, item in zip(readers, config.sets, strict=True)
    ]
    return Plan(sets, seed, config.period, config.block, config.window, skip_ranges=config.skip_ranges)


class PositionDataSet(Dataset):
    """The endless training stream as a map: stream index -> transformed sample.

    A corrupt sample is replaced by another of its data set, the same one in every run; each is written to
    `quarantine`. More than `max_corrupt_fraction` of them is an AdhmrError.
    """

    def __init__(
        self,
        readers: Sequence[ShardReader],
        plan: Plan,
        transform: Transform,
        quarantine: Path | None,
        max_corrupt_fraction: float,
    ) -> None:
        self.readers, self.plan, self.transform = list(readers), plan, transform
        self.quarantine, self.max_corrupt_fraction = quarantine, max_corrupt_fraction
        self.recent: deque[bool] = deque(maxlen=CORRUPT_WINDOW)

    def __getitem__(self, index: int) -> dict:
        position = self.plan.position_of(index)
        number, _, row = self.plan.sample_at(position)
        reader, key = self.readers[number], RandomKey(self.plan.seed, position)
        for tried in self._tries(position, row):
            try:
                item = self.transform(read_with_retries(reader, tried), key)
            except CorruptSampleError as error:
                self._note(error, position)
            else:
                self.recent.append(False)
                return {**item, "position": position}
        raise AdhmrError(
            f"data set {reader.name}: the sample at position {position} and {SUBSTITUTES} substitutes cannot be read; "
            f"see {self.quarantine or 'the log'} and check the shards"
        )

    def _tries(self, position: int, row: int) -> Iterator[int]:
        yield row
        yield from self.plan.substitutes_at(position)

    def __getitems__(self, indices: list[int]) -> list[dict] | AdhmrError:
        return _errors_as_values(lambda: [self[index] for index in indices])

    def _note(self, error: CorruptSampleError, position: int) -> None:
        write_quarantine(self.quarantine, error, position)
        self.recent.append(True)
        corrupt = sum(self.recent)
        if corrupt > max(CORRUPT_AT_LEAST, self.max_corrupt_fraction * len(self.recent)):
            raise AdhmrError(
                f"{corrupt} of the last {len(self.recent)} samples are corrupt, more than max_corrupt_fraction "
                f"{self.max_corrupt_fraction} allows; the last: {error}; see {self.quarantine or 'the log'}"
            )


class OrderedDataSet(Dataset):
    """The rows of one data set as a map; corrupt ones are left out when there is a quarantine file, else an error."""

    def __init__(self, reader: ShardReader, transform: Transform, seed: int, quarantine: Path | None) -> None:
        self.reader, self.transform, self.seed, self.quarantine = reader, transform, seed, quarantine

    def __getitems__(self, rows: list[int]) -> list[dict] | AdhmrError:
        return _errors_as_values(lambda: list(chain.from_iterable(self._items(row) for row in rows)))

    def _items(self, row: int) -> list[dict]:
        try:
            item = self.transform(read_with_retries(self.reader, row), RandomKey(self.seed, row))
            return [{**item, "position": row}]
        except CorruptSampleError as error:
            if self.quarantine is None:
                raise
            write_quarantine(self.quarantine, error, row)
            return []


def build_stream(
    readers: Sequence[ShardReader],
    plan: Plan,
    transform: Transform,
    *,
    global_batch: int | BatchSizes,
    micro_batch: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    start_step: int = 0,
    stop_step: int,
    workers: int = 0,
    quarantine: str | Path | None = None,
    max_corrupt_fraction: float = 0.01,
) -> Iterator[Batch]:
    """The micro-batches of one rank from start_step to stop_step, in order.

    global_batch is a number, or BatchSizes where it changes; each rank takes its share of a step in micro-batches of
    `micro_batch` samples, or in one. Every value of the transform's dict is stacked along a first axis of the
    micro-batch's samples (texts stay a list), and "position" int64 is added. The union over ranks of a step's
    micro-batches depends on the plan and global_batch alone. `readers` are in the order of `plan.sets`.

    Raises AdhmrError for a batch that does not divide, and while iterating for data that cannot be read.
    """
    names = [reader.name for reader in readers]
    if names != [item.name for item in plan.sets]:
        raise AdhmrError(f"readers {names} are not the plan's data sets {[item.name for item in plan.sets]}")
    sizes = global_batch if isinstance(global_batch, BatchSizes) else BatchSizes([(0, global_batch)])
    batches = StepBatches(sizes, micro_batch, rank, world_size, start_step, stop_step)
    path = Path(quarantine) if quarantine else None
    return _load(PositionDataSet(readers, plan, transform, path, max_corrupt_fraction), batches, workers)


def iterate_set(
    folder: str | Path | ShardReader,
    transform: Transform,
    batch: int,
    workers: int = 0,
    limit: int | None = None,
    *,
    rows: Sequence[int] | None = None,
    seed: int = 0,
    quarantine: str | Path | None = None,
) -> Iterator[Batch]:
    """Each sample of a data set once, in order of rows (or of `rows`), `limit` at most; the last batch may be short.

    "position" is the row, and with `seed` the key of the sample's randomness. A corrupt sample is an AdhmrError, or
    with a `quarantine` file is written there and left out.
    """
    reader = folder if isinstance(folder, ShardReader) else ShardReader(folder)
    chosen = list(islice(range(len(reader)) if rows is None else rows, limit))
    batches = [chosen[first : first + batch] for first in range(0, len(chosen), batch)]
    path = Path(quarantine) if quarantine else None
    return _load(OrderedDataSet(reader, transform, seed, path), batches, workers)


def read_with_retries(reader: ShardReader, row: int) -> RawSample:
    """reader.read with a few more attempts when the file system fails; then CorruptSampleError."""
    for attempt in range(READ_ATTEMPTS):
        try:
            return reader.read(row)
        except OSError as error:
            if attempt + 1 == READ_ATTEMPTS:
                shard, key = reader.index.locate(row).shard, reader.index.keys[row]
                raise CorruptSampleError(reader.name, shard, key, f"cannot be read: {error}") from error
            reader.close()  # a descriptor of a file that was replaced on a network file system never recovers
            time.sleep(READ_PAUSE_SECONDS * 2**attempt)
    raise AssertionError("unreachable")


def write_quarantine(path: Path | None, error: CorruptSampleError, position: int) -> None:
    """Append one line of JSON; one write in append mode, so that several workers may share the file."""
    if path is None:
        return
    entry = {"dataset": error.dataset, "shard": error.shard, "key": error.key, "error": error.reason}
    line = json.dumps({**entry, "position": position}) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def collate(items: list[dict] | AdhmrError) -> Batch | AdhmrError | None:
    """Stack samples: arrays and numbers along a new first axis, Python floats as float32, texts as a list."""
    if isinstance(items, AdhmrError):
        return items
    if not items:
        return None
    batch: Batch = {}
    for name, value in items[0].items():
        values = [item[name] for item in items]
        if isinstance(value, str):
            batch[name] = values
        elif isinstance(value, float):
            batch[name] = torch.tensor(values, dtype=torch.float32)
        elif isinstance(value, np.ndarray):
            # In a worker torch's own collation writes into the shared memory that carries a batch to the trainer.
            batch[name] = default_collate([torch.from_numpy(value) for value in values])
        else:
            batch[name] = torch.from_numpy(np.asarray(values))
    return batch


def _errors_as_values(make: Callable[[], list[dict]]) -> list[dict] | AdhmrError:
    # torch would wrap an exception of a worker into a page of traceback; the user's message travels as a value.
    try:
        return make()
    except AdhmrError as error:
        return error


def _load(dataset: Dataset, batches: StepBatches | list[list[int]], workers: int) -> Iterator[Batch]:
    options = {}
    if workers:
        options = {"multiprocessing_context": forkserver(), "worker_init_fn": set_up_worker, "prefetch_factor": 4}
    # Copies to a GPU overlap with its work only from pinned memory.
    options["pin_memory"] = torch.cuda.is_available()
    loader = DataLoader(dataset, batch_sampler=batches, num_workers=workers, collate_fn=collate, **options)
    return _checked(iter(loader), workers)


def _checked(batches: Iterator, workers: int) -> Iterator[Batch]:
    try:
        for batch in batches:
            if isinstance(batch, AdhmrError):
                raise batch
            if batch is not None:
                yield batch
    except (RuntimeError, EOFError, OSError) as error:
        # torch notices it, or else a batch that the process had announced cannot be fetched from it any more.
        lost = str(error).startswith("DataLoader worker (pid") or isinstance(error, (EOFError, OSError))
        if not workers or not lost or str(error).startswith("Caught "):  # a worker's own exception
            raise
        sign = str(error).partition(". ")[0] or "its connection ended"
        raise AdhmrError(
            f"a loader process was killed ({sign}), most often because the memory of the machine was full: use fewer "
            "`workers` and start again"
        ) from None
    finally:
        # The error's traceback holds this frame: were the loader still in it, the garbage collector would take down the
        # loader's queues before its workers, which then wait for ever.
        del batches
