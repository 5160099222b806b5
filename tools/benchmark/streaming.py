"""How fast the training stream delivers stored samples, how fast it starts anywhere, and what its workers hold.

Baselines, measured in turn with it in the same run: `webdataset.WebDataset` with its shuffle buffer on the same shards
(as people use it, which decodes with Pillow, and with our decoder put in), and decoding the same JPEG bytes from memory
with nothing else. A sample is its decoded image, its label record and its key, in batches of 64; no crop is cut. The
shards hold rendered persons, each many times under its own keys, and are made once. Without workers a second is one of
this process's own time, which neighbours on the machine do not take; with them it is one on the clock. The last line is
JSON.

    python tools/benchmark/streaming.py [--folder F --image-size 256 --samples 4000 --rounds 7 --workers 2]
"""

import argparse
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, islice
from pathlib import Path
from statistics import median
from tempfile import gettempdir

import cv2
import numpy as np
import psutil
import torch
import webdataset as wds
from torch.utils.data import DataLoader

from adhmr.config.data import AugmentConfig, CropConfig
from adhmr.data.index import INDEX_NAME, INDEX_VERSION, KEYS_NAME, SAMPLES_NAME, canonical_json
from adhmr.data.loader_process import forkserver, keep_freed_memory, set_up_worker
from adhmr.data.randomness import RandomKey
from adhmr.data.sampler import Plan, PlanSet
from adhmr.data.schema import SCHEMA_VERSION, RawSample
from adhmr.data.shard_index import sample_dtype
from adhmr.data.shard_reader import ShardReader, decode_jpeg
from adhmr.data.shard_writer import ShardWriter, shard_name
from adhmr.data.step_plan import StepPlan
from adhmr.data.stream import build_stream
from adhmr.data.synthetic.build import synthesise
from adhmr.data.transforms import PersonCrop

BATCH = 64
BATCHES = 8  # of one measurement without workers
WORKER_BATCHES = 40  # of one with workers, which run ahead by a few
SHUFFLE_BUFFER = 1000
RENDERED = 100  # different images
GOALS = {"against webdataset": 1.3, "share of raw decoding": 0.85, "seconds to start": 1.0, "seconds to resume": 1.0}
MORE_POSITIONS = 10_000
SIMULATED_SETS, SIMULATED_SAMPLES, SAMPLES_PER_SHARD, FAR = 13, 10_000_000, 10_000, 10**9


def record_bytes(record: np.void | np.ndarray) -> np.ndarray:
    return np.frombuffer(bytearray(record.tobytes()), np.uint8)


def stored(sample: RawSample, key: RandomKey) -> dict:
    """The transform of the measured stream: what is stored, decoded."""
    return {"image": sample.image, "record": record_bytes(sample.record), "key": sample.key}


def make_set(folder: Path, image_size: int, samples: int) -> Path:
    """A data set of `samples` persons, `RENDERED` of them different; what is there already is used again."""
    if not (folder / "set" / "index.json").exists():
        synthesise("synth-wild", folder / "rendered", RENDERED, processes=1, image_size=image_size)
        rendered = ShardReader(folder / "rendered")
        with ShardWriter(folder / "set", source="benchmark", split="train", licence="CC0-1.0") as writer:
            for number in range(writer.completed_samples, samples):
                members, record = rendered.read_members(number % RENDERED), rendered.read_record(number % RENDERED)
                writer.write(f"person-{number:08d}", members["jpg"], record, {"number": number})
    return folder / "set"


def our_stream(reader: ShardReader, workers: int) -> Iterator:
    plan = Plan([PlanSet(reader.name, tuple(reader.index.shard_counts), 1.0, reader.index.fingerprint)], seed=0)
    return build_stream([reader], plan, stored, global_batch=BATCH, micro_batch=BATCH, stop_step=10**9, workers=workers)


def reading(reader: ShardReader) -> Iterator:
    """What the stream reads, not collated: position, bytes, checksum, record and image."""
    plan = Plan([PlanSet(reader.name, tuple(reader.index.shard_counts))], seed=0)
    for first in count(0, BATCH):
        yield [reader.read(plan.sample_at(position)[2]) for position in range(first, first + BATCH)]


def our_decoder(key: str, data: bytes) -> np.ndarray | None:
    return decode_jpeg(data) if key.endswith(".jpg") else None


def identity(value: object) -> object:
    return value


def plain_webdataset(reader: ShardReader, workers: int, decoder: str | Callable) -> Iterator:
    shards = [str(Path(reader.index.folder) / name) for name in reader.index.shard_names]
    dataset = wds.WebDataset(shards, shardshuffle=len(shards)).repeat().shuffle(SHUFFLE_BUFFER).decode(decoder)
    dataset = dataset.to_tuple("jpg", "npy", "__key__").map_tuple(identity, record_bytes, identity).batched(BATCH)
    if not workers:
        return iter(dataset)
    options = {"multiprocessing_context": forkserver(), "worker_init_fn": set_up_worker, "prefetch_factor": 4}
    return iter(DataLoader(dataset, batch_size=None, num_workers=workers, **options))


def raw_decoding(reader: ShardReader) -> Iterator:
    """The bytes of one batch after another, decoded; a batch's images are kept until the next one's are there."""
    batches = [
        [reader.read_members(row)["jpg"] for row in range(first, first + BATCH)]
        for first in range(0, min(len(reader), 2048) - BATCH + 1, BATCH)
    ]
    while True:
        for batch in batches:
            yield [decode_jpeg(data) for data in batch]


def crops(reader: ShardReader, config: CropConfig, augment: AugmentConfig | None) -> Iterator:
    """Crops of samples that are decoded already."""
    samples, crop = [reader.read(row) for row in range(BATCH)], PersonCrop(config, augment)
    while True:
        yield [crop(sample, RandomKey(0, number)) for number, sample in enumerate(samples)]


def rate(batches: Iterator, number: int, clock: Callable[[], float] = time.process_time) -> float:
    """Samples a second over `number` batches."""
    start = clock()
    for _ in islice(batches, number):
        pass
    return number * BATCH / (clock() - start)


def fresh_rate(make: Callable[[], Iterator]) -> tuple[float, float]:
    """Samples a second of a new loader with workers after its first batch, and the seconds until that batch."""
    start = time.perf_counter()
    batches = make()
    next(batches)
    first = time.perf_counter() - start
    return rate(batches, WORKER_BATCHES, time.perf_counter), first


def simulate_index(folder: Path) -> Path:
    """A data set as far as its index goes: a manifest, shards and tables of the right size that hold nothing."""
    number = SIMULATED_SAMPLES // SAMPLES_PER_SHARD
    shards = [{"name": shard_name(n), "size": 2**30, "sha256": "0" * 64} for n in range(number)]
    row = sample_dtype(3)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": row.descr, "fortran_order": False, "shape": (SIMULATED_SAMPLES,)}
    )
    tables = {SAMPLES_NAME: len(header.getvalue()) + SIMULATED_SAMPLES * row.itemsize, KEYS_NAME: 2**28}
    document = {
        "index_version": INDEX_VERSION,
        "schema_version": SCHEMA_VERSION,
        **{"source": "benchmark", "split": "train", "licence": "none", "extensions": ["jpg", "json", "npy"]},
        "num_samples": SIMULATED_SAMPLES,
        "shards": [{**shard, "samples": SAMPLES_PER_SHARD} for shard in shards],
        "tables": {name: {"size": size, "sha256": "0" * 64} for name, size in tables.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, size in [*((shard["name"], shard["size"]) for shard in shards), *tables.items()]:
        (folder / name).touch()
        os.truncate(folder / name, size)  # a hole: it takes no space
    with open(folder / SAMPLES_NAME, "r+b") as file:
        file.write(header.getvalue())
    (folder / INDEX_NAME).write_bytes(canonical_json(document))
    return folder


def far_plan(readers: list[ShardReader]) -> StepPlan:
    sets = [
        PlanSet(reader.name, tuple(reader.index.shard_counts), 1.0 + number, reader.index.fingerprint)
        for number, reader in enumerate(readers)
    ]
    return StepPlan(Plan(sets, seed=0), BATCH)


def open_far(folder: Path) -> list[ShardReader]:
    return [ShardReader(folder, f"set-{number}") for number in range(SIMULATED_SETS)]


def start_far(folder: Path, clock: Callable[[], float], state: dict | None = None) -> dict[str, float]:
    """Seconds from nothing to where the first batch at a far position lies, part by part; with a checkpoint's state."""
    times: dict[str, float] = {}
    begin = clock()

    def part(name: str) -> None:
        nonlocal begin
        times[name], begin = clock() - begin, clock()

    readers = open_far(folder)
    part("open")
    plan = far_plan(readers)
    part("plan")
    if state is not None:
        plan = plan.resumed(state)
        part("check the state")
    for position in plan.positions(FAR // BATCH):
        number, _, row = plan.plan.sample_at(position)
        readers[number].index.locate(row)
    part("first batch")
    for position in range(FAR, FAR + MORE_POSITIONS):
        plan.plan.sample_at(position)
    times["each position"] = (clock() - begin) / MORE_POSITIONS
    return times


def workers_memory() -> list[dict[str, float]]:
    """MiB of each loader process of this one: resident (RSS) and its share of what is shared among them (PSS)."""
    found = []
    for process in psutil.Process(os.getpid()).children(recursive=True):
        memory = process.memory_full_info()
        if memory.rss > 2**27:  # not the resource tracker
            found.append({"rss_mib": round(memory.rss / 2**20), "pss_mib": round(memory.pss / 2**20)})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(gettempdir()) / "adhmr-streaming")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2, help="0 leaves the measurements with workers out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_freed_memory()
    folder = make_set(options.folder / f"{options.image_size}-{options.samples}", options.image_size, options.samples)
    reader = ShardReader(folder)
    streams = {
        "stream": our_stream(reader, 0),
        "reading": reading(reader),
        "webdataset": plain_webdataset(reader, 0, "rgb8"),
        "webdataset, our decoder": plain_webdataset(reader, 0, our_decoder),
        "raw decoding": raw_decoding(reader),
        "crop 256": crops(reader, CropConfig(size=256), None),
        "crop 256, augmented": crops(reader, CropConfig(size=256), AugmentConfig()),
    }
    load = os.getloadavg()[0]
    for batches in streams.values():  # fills buffers and caches
        rate(batches, 2)
    rates: dict[str, list[float]] = {name: [] for name in streams}
    for _ in range(options.rounds):
        for name, batches in streams.items():  # in turn, so that a neighbour on the machine disturbs all alike
            rates[name].append(rate(batches, BATCHES))
    makers = {
        "stream": partial(our_stream, reader, options.workers),
        "webdataset": partial(plain_webdataset, reader, options.workers, "rgb8"),
    }
    worker_rates: dict[str, list[float]] = {name: [] for name in makers if options.workers}
    first_batch: list[float] = []
    memory: list[dict[str, float]] = []
    for _ in range(min(options.rounds, 3) if options.workers else 0):
        for name, make in makers.items():
            speed, seconds = fresh_rate(make)
            worker_rates[name].append(speed)
            if name == "stream":
                first_batch.append(seconds)
    if options.workers:
        batches = our_stream(reader, options.workers)
        rate(batches, WORKER_BATCHES)
        memory = workers_memory()
        del batches
    simulated = simulate_index(options.folder / "simulated")
    state = far_plan(open_far(simulated)).state_dict(FAR // BATCH)
    far: dict[str, dict[str, float]] = {}
    for name, clock in (("processor", time.process_time), ("clock", time.perf_counter)):
        for kind, given in (("start", None), ("resume", state)):
            runs = [start_far(simulated, clock, given) for _ in range(options.rounds)]
            far[f"{kind}, {name}"] = {part: round(median(run[part] for run in runs), 6) for part in runs[0]}

    def seconds(name: str) -> float:
        return round(sum(value for part, value in far[name].items() if part != "each position"), 3)

    def ratio(numerator: str, denominator: str, of: dict[str, list[float]] = rates) -> float:
        return round(median(a / b for a, b in zip(of[numerator], of[denominator])), 3)

    figures: dict[str, object] = {
        "benchmark": "streaming",
        "image_size": options.image_size,
        "bytes_per_jpeg": round(np.mean([len(reader.read_members(row)["jpg"]) for row in range(RENDERED)])),
        "load_before": round(load, 2),
        "samples_per_s": {name: round(median(values)) for name, values in rates.items()},
        "range": {name: [round(min(values)), round(max(values))] for name, values in rates.items()},
        "against webdataset": ratio("stream", "webdataset"),
        "against webdataset with our decoder": ratio("stream", "webdataset, our decoder"),
        "share of raw decoding": ratio("stream", "raw decoding"),
        "reading's share of raw decoding": ratio("reading", "raw decoding"),
        "seconds to start": seconds("start, processor"),
        "seconds to resume": seconds("resume, processor"),
        "seconds on the clock": [seconds("start, clock"), seconds("resume, clock")],
        "far": far,
    }
    print(
        f"{options.samples} samples of {options.image_size} px, {figures['bytes_per_jpeg']} bytes a JPEG, one process"
    )
    for name, values in rates.items():
        print(f"{name:24s} {median(values):8.0f} samples/s ({min(values):.0f} to {max(values):.0f})")
    if options.workers:
        figures["workers"] = {
            "count": options.workers,
            "samples_per_s": {name: round(median(values)) for name, values in worker_rates.items()},
            "against webdataset": ratio("stream", "webdataset", worker_rates),
            "seconds to first batch": round(median(first_batch), 2),
            "memory": memory,
        }
        print(f"{options.workers} workers: {figures['workers']}")
    print(f"at position {FAR:,} of {SIMULATED_SETS} sets of {SIMULATED_SAMPLES:,}:")
    for name in far:
        print(f"{name}: {seconds(name)} s, {far[name]}")
    figures["goal"] = GOALS
    figures["reached"] = {
        name: figures[name] < goal if name.startswith("seconds") else figures[name] >= goal
        for name, goal in GOALS.items()
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
