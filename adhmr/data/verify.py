"""Checking a data set byte by byte and label by label, shard by shard on several processes: `adhmr data verify`.

What a file should be is said by its manifest (index.py); what a good label is, is said here.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from adhmr.atomic_file import write_atomically
from adhmr.data.index import KEYS_NAME, SAMPLES_NAME, DataSetIndex, file_problem
from adhmr.data.index_build import key_digest, repeated_digests
from adhmr.data.schema import boxed_points, decode_record
from adhmr.data.shard_index import ShardIndex, sidecar_path
from adhmr.data.shard_pool import over_shards
from adhmr.data.shard_reader import CorruptSampleError, ShardReader, decode_jpeg
from adhmr.data.storage import FileEntry
from adhmr.errors import AdhmrError

MAX_ROTATION = 2 * np.pi + 1e-3  # radians of an axis-angle vector
MAX_BETA = 20.0  # standard deviations of body shape
PIXEL_MARGIN = 2.0  # image sides that a known joint may lie outside the image
UNIT_TOLERANCE = 0.02  # of the norm of (cosine, sine)
QUICK_SAMPLES = 1  # samples of each shard that --quick reads
MAX_SHOWN = 200  # problems in the table


class Problem(NamedTuple):
    """One thing that is wrong; key is empty when it is about a whole file."""

    file: str
    key: str
    reason: str


def verify(folder: str | Path, quick: bool = False, processes: int = 1) -> list[Problem]:
    """All problems of a data set. `quick` hashes no shard and reads only the first sample of each.

    Raises AdhmrError when there is no manifest that can be read.
    """
    index = DataSetIndex.load(folder, check=False)
    problems = list(_tables(index))
    if problems:  # nothing can be said of samples when the tables do not say where they are
        return problems
    repeated = repeated_digests(index.keys)
    often = Counter(key for key in index.keys if key_digest(key) in repeated) if repeated else {}
    problems += [Problem(KEYS_NAME, key, f"is the key of {count} samples") for key, count in often.items() if count > 1]
    counts = sum(shard["samples"] for shard in index.document["shards"])
    if index.document["num_samples"] != counts:
        problems.append(Problem("index.json", "", f"says {index.document['num_samples']} samples, its shards {counts}"))
    numbers = range(len(index.shard_names))
    for found in over_shards(_shard, (index, quick), numbers, processes, f"verify {index.name}"):
        problems += found
    return problems


def _tables(index: DataSetIndex) -> Iterator[Problem]:
    for name in (SAMPLES_NAME, KEYS_NAME):
        entry = FileEntry(name, **index.document["tables"][name])
        problem = file_problem(index.storage, name, entry.size) or _hash_problem(index, entry)
        if problem:
            yield Problem(name, "", problem)
            return
    try:
        stops = index.samples["key_stop"]
        if len(stops) and int(stops[-1]) != len(index.key_bytes):
            yield Problem(KEYS_NAME, "", f"has {len(index.key_bytes)} bytes of keys, {SAMPLES_NAME} says {stops[-1]}")
    except AdhmrError as error:
        yield Problem(SAMPLES_NAME, "", str(error))


def _hash_problem(index: DataSetIndex, entry: FileEntry) -> str | None:
    try:
        with os.fdopen(index.storage.open(entry), "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, AdhmrError) as error:
        return str(error)
    return None if found == entry.sha256 else f"its SHA-256 is {found[:12]}, the manifest says {entry.sha256[:12]}"


def _shard(shared: tuple[DataSetIndex, bool], number: int) -> list[Problem]:
    """The problems of one shard and its samples."""
    index, quick = shared
    shard = index.document["shards"][number]
    entry = FileEntry(shard["name"], shard["size"], shard["sha256"])
    problem = file_problem(index.storage, entry.name, entry.size)
    if problem:
        return [Problem(entry.name, "", problem)]
    problems = []
    problem = None if quick else _hash_problem(index, entry)
    if problem:
        problems.append(Problem(entry.name, "", problem))
    problem = _sidecar_problem(index, entry, shard["samples"])
    if problem:
        problems.append(Problem(sidecar_path(Path(entry.name)).name, "", problem))
    reader = ShardReader.of(index)
    first, stop = index.first_row[number : number + 2].tolist()
    for row in range(first, min(stop, first + QUICK_SAMPLES) if quick else stop):
        problems += [Problem(entry.name, index.keys[row], reason) for reason in _sample_problems(reader, row)]
    reader.close()
    return problems


def _sidecar_problem(index: DataSetIndex, entry: FileEntry, samples: int) -> str | None:
    """What is wrong with the sidecar of a local shard; one that is not there is no problem."""
    if not isinstance(index.folder, Path):
        return None
    path = sidecar_path(index.folder / entry.name)
    try:
        sidecar = ShardIndex.decode(entry.name, path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        return f"cannot be read ({error}); delete it"
    if (sidecar.size, sidecar.sha256, len(sidecar.samples)) != (entry.size, entry.sha256, samples):
        return "is of another shard than the one in index.json; delete it"
    return None


def _sample_problems(reader: ShardReader, row: int) -> list[str]:
    try:
        members = reader.read_members(row)
    except CorruptSampleError as error:
        return [error.reason]
    except (OSError, AdhmrError) as error:
        return [f"cannot be read ({error})"]
    problems, shape = [], None
    try:
        shape = decode_jpeg(members["jpg"]).shape[:2]
    except (KeyError, ValueError) as error:
        problems.append(f"image: {error}")
    try:
        record = decode_record(members["npy"])
    except (KeyError, ValueError, EOFError) as error:
        return [*problems, f"record: {error}"]
    return problems + record_problems(record, shape)


def record_problems(record: np.void, shape: tuple[int, int] | None) -> list[str]:
    """What is wrong with a label record; only what it says it knows is judged. shape: (height, width) of the image."""
    problems = []

    def expect(condition: bool, reason: str) -> None:
        if not condition:
            problems.append(reason)

    height, width = (int(value) for value in record["image_size"])
    expect(shape is None or (height, width) == shape, f"image_size is {(height, width)}, the image has {shape}")
    for name in ("joints_conf", "twists_conf"):
        values = record[name]
        expect(bool(((values >= 0) & (values <= 1)).all()), f"{name} is not within 0 and 1")  # NaN is not
    flags = [name for name in record.dtype.names if name.startswith("has_") and record[name] > 1]
    expect(not flags, f"{', '.join(flags)}: expected 0 or 1")
    known = record["joints_conf"] > 0  # (29,)
    side = np.float32([width, height])
    pixels = record["joints29_px"][known] if known[:24].any() else boxed_points(record)  # (K, 2)
    expect(len(pixels) > 0, "no body joint has a confidence")
    near = (pixels >= -PIXEL_MARGIN * side) & (pixels <= (1 + PIXEL_MARGIN) * side)
    expect(bool(near.all()), f"joints29_px is not finite or more than {PIXEL_MARGIN:g} image sides outside the image")
    intrinsics = record["intrinsics"]
    expect(
        bool(np.isfinite(intrinsics).all() and intrinsics[0, 0] > 0 and intrinsics[1, 1] > 0),
        "intrinsics are not finite or have no focal length",
    )
    if record["has_depth"]:
        expect(bool(np.isfinite(record["joints29"][known]).all()), "joints29 is not finite")
        expect(bool(record["joints29"][0, 2] > 0), f"root depth is {record['joints29'][0, 2]:g} m, expected above 0")
    if record["has_pose"]:
        angles = np.linalg.norm(record["pose"], axis=-1)  # (24,)
        expect(bool((angles <= MAX_ROTATION).all()), "a rotation of pose is not finite or beyond 2 pi")
        expect(bool(np.isfinite(record["transl"]).all()), "transl is not finite")
    if record["has_betas"]:
        expect(bool((np.abs(record["betas"]) <= MAX_BETA).all()), f"betas are not finite or beyond {MAX_BETA:g}")
    if record["has_twists"]:
        norms = np.linalg.norm(record["twists"][record["twists_conf"] > 0], axis=-1)
        expect(bool((np.abs(norms - 1) <= UNIT_TOLERANCE).all()), "twists are no cosine and sine")
    if record["has_joints17"]:
        expect(bool(np.isfinite(record["joints17"]).all()), "joints17 is not finite")
    return problems


def report(folder: str | Path, problems: list[Problem], listed: Path | None = None) -> str:
    """The problems as a table; the keys of bad samples are written to `listed`, one a line, for a filter's exclude."""
    keys = sorted({problem.key for problem in problems if problem.key})
    if listed is not None:
        write_atomically(listed, "".join(f"{key}\n" for key in keys))
    if not problems:
        return f"{folder}: nothing is wrong"
    shown = [Problem("shard", "key", "reason"), *problems[:MAX_SHOWN]]
    widths = [max(len(problem[column]) for problem in shown) for column in range(2)]
    lines = [f"{file:<{widths[0]}}  {key:<{widths[1]}}  {reason}" for file, key, reason in shown]
    if len(problems) > MAX_SHOWN:
        lines.append(f"... and {len(problems) - MAX_SHOWN} more")
    return "\n".join([*lines, f"{folder}: {len(problems)} problems, {len(keys)} samples among them"])
