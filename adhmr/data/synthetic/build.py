"""Rendering a whole synthetic data set into shards, on any number of processes, with the same bytes.

A shard is the unit of work; a rerun goes on after the shards that are there. What a sample looks like is `studio`'s.
"""

import hashlib
import io
import multiprocessing
import shutil
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from adhmr.atomic_file import write_atomically
from adhmr.body.body_model import open_body_path
from adhmr.data.claim import claim_folder
from adhmr.data.index import INDEX_NAME
from adhmr.data.index_build import write_index
from adhmr.data.loader_process import end_with_the_parent
from adhmr.data.schema import SAMPLE_DTYPE, SCHEMA_VERSION
from adhmr.data.shard_writer import ShardSample, shard_name, write_shard
from adhmr.data.synthetic.poses import BANK_PATH
from adhmr.data.synthetic.sets import domain
from adhmr.data.synthetic.studio import Studio
from adhmr.errors import AdhmrError

JPEG_QUALITY = 90
LICENCE = "CC0-1.0: rendered from an openly licensed body; backgrounds procedural or from scikit-image's data folder"
REQUEST_NAME, TRUTH_PARTS = "synthesis.json", "truth-parts"
TRUTH_NAME, TRUTH_KIND_NAME = "truth.npy", "truth_kind.npy"
POLL_SECONDS, PLAIN_LINE_SECONDS = 0.25, 10.0


@dataclass(frozen=True)
class Request:
    """All that a data set depends on."""

    name: str
    split: str
    seed: int
    count: int
    image_size: int
    samples_per_shard: int
    assets: str  # digest of the body and the pose bank
    schema: int  # version of the label record


_studio = cache(Studio)
_after_sample: Callable[[], None] | None = None  # how this process tells that one more is drawn


def _start_drawing(after_sample: Callable[[], None]) -> None:
    global _after_sample
    _after_sample = after_sample
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _start_worker(counter) -> None:
    end_with_the_parent()  # a killed run would leave its workers drawing

    def count_one() -> None:
        with counter.get_lock():
            counter.value += 1

    _start_drawing(count_one)


def _encode(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def _npy_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _draw_shard(folder: Path, request: Request, number: int) -> None:
    """Writes shard `number`, and before it its part of the truth: a shard that is there has its truth."""
    first = number * request.samples_per_shard
    count = min(request.samples_per_shard, request.count - first)
    studio = _studio(request.name, request.split, request.image_size)
    truth, kinds, samples = np.zeros(count, SAMPLE_DTYPE), np.zeros(count, np.uint8), []
    for row, (image, label, true_record, kind) in enumerate(studio.samples(request.seed, first, count)):
        truth[row], kinds[row] = true_record, kind
        provenance = {
            "source": f"synthetic:{request.name}",
            "split": request.split,
            "seed": request.seed,
            "number": first + row,
            "box": [0, 0, request.image_size, request.image_size],
            "affine": [[1, 0, 0], [0, 1, 0]],
        }
        key = f"{request.name}-{request.split}-{first + row:07d}"
        samples.append(ShardSample(key, _encode(image), label, provenance))
        _after_sample()
    if studio.spec.pseudo_labels:
        write_atomically(folder / TRUTH_PARTS / f"{number:06d}.npy", _npy_bytes(truth))
        write_atomically(folder / TRUTH_PARTS / f"{number:06d}.kind.npy", _npy_bytes(kinds))
    write_shard(folder / shard_name(number), samples)


def synthesise(
    name: str,
    folder: str | Path,
    count: int,
    seed: int = 0,
    split: str = "train",
    processes: int = 2,
    image_size: int = 192,
    samples_per_shard: int = 500,
) -> None:
    """Renders a named set into a data set folder; a rerun goes on after the shards that are there.

    Sets with pseudo-labels also get truth.npy ((count,) SAMPLE_DTYPE) and truth_kind.npy ((count,) uint8, indices of
    labels.KIND_NAMES), in row order; no reader of the data set sees them.

    Args:
        name: a key of sets.DOMAINS.
        split: which captured poses are used, and part of every sample's seed.
        processes: 1 draws in this process.

    Raises:
        AdhmrError: unknown set or split, numbers out of range, or a folder that holds another data set.
    """
    spec = domain(name, split)
    request = Request(name, split, seed, count, image_size, samples_per_shard, _assets_digest(), SCHEMA_VERSION)
    if count < 1 or samples_per_shard < 1 or processes < 1:
        raise AdhmrError(f"{name}: count, samples_per_shard and processes must be at least 1")
    if not 32 <= image_size <= 384:
        raise AdhmrError(f"{name}: image_size is {image_size}, expected 32 to 384 pixels")
    folder = Path(folder)
    claim_folder(folder, REQUEST_NAME, asdict(request))
    if (folder / INDEX_NAME).exists():
        return
    numbers = range(-(-count // samples_per_shard))
    missing = [number for number in numbers if not (folder / shard_name(number)).exists()]
    _draw_shards(folder, request, missing, processes)
    if spec.pseudo_labels:
        for suffix, target in ((".npy", TRUTH_NAME), (".kind.npy", TRUTH_KIND_NAME)):
            parts = [np.load(folder / TRUTH_PARTS / f"{number:06d}{suffix}", allow_pickle=False) for number in numbers]
            write_atomically(folder / target, _npy_bytes(np.concatenate(parts)))
    write_index(folder, source=f"synthetic:{name}", split=split, licence=LICENCE)
    shutil.rmtree(folder / TRUTH_PARTS, ignore_errors=True)


def _assets_digest() -> str:
    digest = hashlib.sha256()
    for path in (open_body_path(), BANK_PATH):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _draw_shards(folder: Path, request: Request, numbers: list[int], processes: int) -> None:
    if not numbers:
        return
    per_shard = request.samples_per_shard
    total = sum(min(per_shard, request.count - number * per_shard) for number in numbers)
    with _ProgressReport(request.name, total) as report:
        if processes == 1 or len(numbers) == 1:
            _draw_here(folder, request, numbers, report)
        else:
            _draw_in_pool(folder, request, numbers, min(processes, len(numbers)), report)


def _draw_here(folder: Path, request: Request, numbers: list[int], report: "_ProgressReport") -> None:
    threads, cv_threads = torch.get_num_threads(), cv2.getNumThreads()
    _start_drawing(lambda: report.update(report.drawn + 1))
    try:
        for number in numbers:
            _draw_shard(folder, request, number)
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(cv_threads)


def _draw_in_pool(folder: Path, request: Request, numbers: list[int], workers: int, report: "_ProgressReport") -> None:
    context = multiprocessing.get_context("spawn")  # forking a process that has run torch threads may hang
    counter = context.Value("q", 0)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(counter,))
    try:
        pending = {pool.submit(_draw_shard, folder, request, number) for number in numbers}
        while pending:
            done, pending = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            report.update(counter.value)
            for future in done:
                future.result()  # the first error ends the run
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _ProgressReport:
    """A bar with rate and remaining time on a terminal, a line now and then elsewhere."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.drawn = name, total, 0
        self.console = Console()
        self.bar: Progress | None = None

    def __enter__(self) -> "_ProgressReport":
        self.started = self.last_line = time.monotonic()
        if self.console.is_terminal:
            texts = TextColumn("{task.description}"), TextColumn("{task.fields[rate]}")
            columns = texts[0], BarColumn(), MofNCompleteColumn(), texts[1], TimeRemainingColumn()
            self.bar = Progress(*columns, console=self.console)
            self.bar.start()
            self.task = self.bar.add_task(self.name, total=self.total, rate="")
        return self

    def update(self, drawn: int) -> None:
        if drawn == self.drawn:
            return
        self.drawn, now = drawn, time.monotonic()
        rate = drawn / max(now - self.started, 1e-6)
        if self.bar is not None:
            self.bar.update(self.task, completed=drawn, rate=f"{rate:.0f} images/s")
        elif now - self.last_line >= PLAIN_LINE_SECONDS or drawn == self.total:
            self.last_line = now
            left = (self.total - drawn) / max(rate, 1e-6)
            print(f"{self.name}: {drawn}/{self.total} images, {rate:.0f} images/s, {left:.0f} s left", flush=True)

    def __exit__(self, *_) -> None:
        if self.bar is not None:
            self.bar.stop()
