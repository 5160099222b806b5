"""Making a folder of shards a data set: the tables of all its samples, and index.json, the manifest, written last.

What one shard's part says is shard_index.py's; what the tables mean to a reader is in index.py.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from adhmr.atomic_file import sync_folder, temporary_beside, write_atomically
from adhmr.data.index import INDEX_NAME, INDEX_VERSION, KEYS_NAME, SAMPLES_NAME, canonical_json
from adhmr.data.schema import SCHEMA_VERSION
from adhmr.data.shard_index import (
    ShardIndex,
    compressed,
    read_sidecar,
    sample_dtype,
    scan_shard,
    sidecar_path,
)
from adhmr.data.shard_pool import over_shards
from adhmr.errors import AdhmrError

COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def list_shards(folder: Path) -> list[Path]:
    """The whole shards of a folder in order of name (unfinished ones have names that begin with a dot)."""
    return sorted(path for path in folder.glob("*.tar") if not path.name.startswith("."))


def shard_index(path: Path) -> ShardIndex:
    """What a shard holds: from its sidecar, else by scanning it and writing one."""
    return read_sidecar(path) or _scan(path.parent, path.name)


def _scan(folder: Path, name: str) -> ShardIndex:
    index = scan_shard(folder / name)
    write_atomically(sidecar_path(folder / name), index.encode())
    return index


def write_index(folder: str | Path, *, source: str, split: str, licence: str) -> Path:
    """Make the whole shards of a folder a data set, from their sidecars; returns the path of index.json.

    Shards without a sidecar are scanned. Raises AdhmrError when there is no sample or when a key comes twice.
    """
    folder = Path(folder)
    return _join(folder, [shard_index(path) for path in list_shards(folder)], source, split, licence)


def rebuild_index(folder: str | Path, *, source: str, split: str, licence: str, processes: int = 1) -> Path:
    """write_index, but from the bytes of the shards: for shards of another writer, or after one was replaced.

    Raises AdhmrError as write_index and scan_shard do, and for a folder that is none or holds compressed shards.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise AdhmrError(f"{folder} is not a folder: shards are indexed where they lie on a disk, then copied with it")
    for path in sorted(folder.iterdir()):
        if path.name.endswith(COMPRESSED_SUFFIXES):
            raise compressed(path, path.suffix)
    names = [path.name for path in list_shards(folder)]
    indexes = list(over_shards(_scan, folder, names, processes, "index"))
    return _join(folder, indexes, source, split, licence)


def _join(folder: Path, shards: Sequence[ShardIndex], source: str, split: str, licence: str) -> Path:
    num_samples = sum(len(shard.samples) for shard in shards)
    if num_samples == 0:
        raise AdhmrError(f"{folder} holds no samples: nothing to index")
    _check_keys(folder, shards)
    extensions = sorted({name for shard in shards for name in shard.extensions})
    (folder / INDEX_NAME).unlink(missing_ok=True)  # never a manifest beside the tables of another
    tables = {
        SAMPLES_NAME: _write_samples(folder / SAMPLES_NAME, shards, extensions),
        KEYS_NAME: _write_keys(folder / KEYS_NAME, shards),
    }
    document = {
        "index_version": INDEX_VERSION,
        "schema_version": SCHEMA_VERSION,
        "source": source,
        "split": split,
        "licence": licence,
        "num_samples": num_samples,
        "extensions": extensions,
        "shards": [
            {"name": shard.name, "size": shard.size, "samples": len(shard.samples), "sha256": shard.sha256}
            for shard in shards
        ],
        "tables": tables,
    }
    # Temporary files that are still here belong to killed writers: all shards are present.
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
    write_atomically(folder / INDEX_NAME, canonical_json(document))
    return folder / INDEX_NAME


def _check_keys(folder: Path, shards: Sequence[ShardIndex]) -> None:
    """Raise AdhmrError when a key comes twice, within a shard or in two."""
    repeated = repeated_digests(key for shard in shards for key in shard.key_list())
    seen: dict[str, str] = {}
    for shard in shards if repeated else ():
        for key in shard.key_list():
            if key_digest(key) in repeated:
                if key in seen:
                    raise AdhmrError(f"{folder}: key {key} is in {seen[key]} and in {shard.name}; keys must be unique")
                seen[key] = shard.name


def repeated_digests(keys: Iterable[str]) -> set[int]:
    """The digests that several of the keys have; equal keys are among those with one of them.

    Eight bytes a key, so that ten million keys need no gigabytes of Python strings.
    """
    ordered = np.sort(np.fromiter((key_digest(key) for key in keys), np.uint64))
    return set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())


def key_digest(key: str) -> int:
    """64 bits of a key."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def _write_samples(path: Path, shards: Sequence[ShardIndex], extensions: list[str]) -> dict:
    dtype = sample_dtype(len(extensions))
    with _npy_file(path, dtype, sum(len(shard.samples) for shard in shards)) as file:
        keys_before = 0
        for shard in shards:
            rows = np.zeros(len(shard.samples), dtype)
            for name in ("offset", "span", "crc32"):
                rows[name] = shard.samples[name]
            rows["key_stop"] = shard.samples["key_stop"] + np.uint64(keys_before)
            columns = [extensions.index(name) for name in shard.extensions]
            rows["members"][:, columns] = shard.samples["members"]
            keys_before += len(shard.keys)
            file.write(rows.tobytes())
    return file.description()


def _write_keys(path: Path, shards: Sequence[ShardIndex]) -> dict:
    with _npy_file(path, np.dtype(np.uint8), sum(len(shard.keys) for shard in shards)) as file:
        for shard in shards:
            file.write(shard.keys)
    return file.description()


class _Hashed:
    """A binary file that knows its size and SHA-256."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.size, self.sha256 = file, 0, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.size += len(data)
        self.sha256.update(data)
        return self.file.write(data)

    def description(self) -> dict:
        return {"size": self.size, "sha256": self.sha256.hexdigest()}


@contextmanager
def _npy_file(path: Path, dtype: np.dtype, length: int) -> Iterator[_Hashed]:
    """An .npy file of shape (length,) whose elements the caller writes; it appears by rename on leaving."""
    temporary = temporary_beside(path)
    try:
        with open(temporary, "wb") as file:
            hashed = _Hashed(file)
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)}
            np.lib.format.write_array_header_1_0(hashed, header)
            yield hashed
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
