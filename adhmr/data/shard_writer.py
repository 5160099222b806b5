"""Writing shards: deterministic USTAR files that appear by rename, each with its sidecar.

How an existing tar is scanned is in shard_index.py; what makes a folder of shards a data set is in index_build.py.
"""

import contextlib
import hashlib
import os
import re
import tarfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from adhmr.atomic_file import sync_folder, temporary_beside, write_atomically
from adhmr.data.index import canonical_json
from adhmr.data.index_build import list_shards, shard_index, write_index
from adhmr.data.schema import encode_record
from adhmr.data.shard_index import BLOCK, ShardIndex, ShardIndexBuilder, sidecar_path
from adhmr.errors import AdhmrError

_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")
_EXTENSION = re.compile(r"[a-z0-9_]{1,12}(\.[a-z0-9_]{1,4})?")
_FIRST_EXTENSIONS = ("jpg", "npy", "json")


@dataclass(slots=True)
class ShardSample:
    """What one sample is written from: a JPEG, a SAMPLE_DTYPE record, its provenance, other members by extension."""

    key: str
    image: bytes
    record: np.void | np.ndarray
    provenance: dict
    extras: dict[str, bytes] = field(default_factory=dict)

    def members(self) -> list[tuple[str, bytes]]:
        """(extension, bytes) in file order: jpg, npy, json, then the extras sorted."""
        if not _KEY.fullmatch(self.key):
            raise AdhmrError(f"sample key {self.key!r}: use 1 to 80 of A-Z, a-z, 0-9, _ and -")
        for extension in self.extras:
            if extension in _FIRST_EXTENSIONS or not _EXTENSION.fullmatch(extension):
                raise AdhmrError(f"sample {self.key}: {extension!r} cannot be the extension of an extra member")
        first = [
            ("jpg", self.image),
            ("npy", encode_record(self.record)),
            ("json", canonical_json(self.provenance)),
        ]
        return first + sorted(self.extras.items())


class _HashedFile:
    """A file being written under a temporary name, hashed on the way; sync() and then appear() finish it."""

    def __init__(self, path: Path):
        self.path = path
        self.temporary = temporary_beside(path)  # two workers may, after a lost lease, write the same shard
        self.file = open(self.temporary, "wb")  # noqa: SIM115 (closed by sync or abandon)
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.size += len(data)
        return self.file.write(data)

    def tell(self) -> int:
        return self.size

    def sync(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()

    def appear(self) -> None:
        os.replace(self.temporary, self.path)
        sync_folder(self.path.parent)

    def abandon(self) -> None:
        with contextlib.suppress(OSError):
            self.file.close()  # writes what is buffered: on a full disk it fails once more
        self.temporary.unlink(missing_ok=True)


class OpenShard:
    """One shard being written; it appears under `path`, with its sidecar, by `finish`.

    Same samples, same bytes. Whoever does not get to `finish` must `abandon` it. The folder must be there.
    """

    def __init__(self, path: Path):
        self.output = _HashedFile(path)
        self.tar = tarfile.open(fileobj=self.output, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        self.index = ShardIndexBuilder()
        self.keys: set[str] = set()

    def add(self, sample: ShardSample) -> None:
        """Raises AdhmrError for a bad key, extension or record."""
        members = sample.members()
        if sample.key in self.keys:
            raise AdhmrError(f"{self.output.path}: sample key {sample.key} comes twice; keys must be unique")
        self.keys.add(sample.key)
        ranges, checksum, gap = {}, 0, b""
        for extension, data in members:
            header = tarfile.TarInfo(f"{sample.key}.{extension}")  # mtime, uid and gid are 0, mode is 0644
            header.size = len(data)
            ranges[extension] = (self.output.size + BLOCK, len(data))
            start = self.output.size
            self.tar.addfile(header, _Bytes(data))
            # The checksum covers what a reader fetches: header of the first member to the last byte of the last one.
            padding = self.output.size - start - BLOCK - len(data)
            checksum = zlib.crc32(gap, checksum)
            checksum = zlib.crc32(header.tobuf(tarfile.USTAR_FORMAT), checksum)
            checksum = zlib.crc32(data, checksum)
            gap = bytes(padding)
        self.index.append(sample.key, ranges, checksum)

    def finish(self) -> ShardIndex:
        """What the shard holds, once it is there."""
        self.tar.close()
        path = self.output.path
        self.output.sync()
        index = self.index.finish(path.name, self.output.size, self.output.sha256.hexdigest())
        write_atomically(sidecar_path(path), index.encode())  # first: a shard that is there has its sidecar
        self.output.appear()
        return index

    def abandon(self) -> None:
        self.output.abandon()


class _Bytes:
    """The least that tarfile asks of a source: read(n) in order."""

    def __init__(self, data: bytes):
        self.data, self.position = memoryview(data), 0

    def read(self, count: int) -> bytes:
        part = self.data[self.position : self.position + count]
        self.position += len(part)
        return bytes(part)


def shard_name(number: int) -> str:
    """The file name of shard `number`: NNNNNN.tar."""
    return f"{number:06d}.tar"


def write_shard(path: str | Path, samples: Iterable[ShardSample]) -> None:
    """Write one whole shard and its sidecar; it appears under `path` only when complete. Same samples, same bytes.

    Raises AdhmrError for a bad key, extension or record.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    shard = OpenShard(path)
    try:
        for sample in samples:
            shard.add(sample)
        shard.finish()
    except BaseException:
        shard.abandon()
        raise


class ShardWriter:
    """Writes samples one after another into shards of `samples_per_shard`; a context manager.

    On leaving without an error the last shard is closed and index.json written. After an interruption, open it on the
    same folder again and go on from sample `completed_samples` of the source: only whole shards count.
    """

    def __init__(
        self, folder: str | Path, *, source: str, split: str, licence: str, samples_per_shard: int = 1000
    ) -> None:
        if samples_per_shard < 1:
            raise AdhmrError(f"samples_per_shard is {samples_per_shard}; expected at least 1")
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.description = {"source": source, "split": split, "licence": licence}
        self.samples_per_shard = samples_per_shard
        self._finished = _finished_counts(self.folder)  # samples in each whole shard
        self._open: OpenShard | None = None

    @property
    def completed_samples(self) -> int:
        """Samples in whole shards, from this and earlier runs."""
        return sum(self._finished)

    def write(
        self,
        key: str,
        image: bytes,
        record: np.void | np.ndarray,
        provenance: dict,
        extras: dict[str, bytes] | None = None,
    ) -> None:
        """Add one sample; raises AdhmrError for a bad key, extension or record."""
        if self._open is None:
            self._open = OpenShard(self.folder / shard_name(len(self._finished)))
        self._open.add(ShardSample(key, image, record, provenance, extras or {}))
        if len(self._open.keys) == self.samples_per_shard:
            self._close_shard()

    def close(self) -> None:
        """Finish the last shard and write the index."""
        if self._open is not None:
            self._close_shard()
        write_index(self.folder, **self.description)

    def _close_shard(self) -> None:
        self._open.finish()
        self._finished.append(len(self._open.keys))
        self._open = None

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, error_type, error, trace) -> None:
        if error_type is None:
            self.close()
        elif self._open is not None:
            self._open.abandon()
            self._open = None


def _finished_counts(folder: Path) -> list[int]:
    paths = list_shards(folder)
    for number, path in enumerate(paths):
        if path.name != shard_name(number):
            raise AdhmrError(f"{path}: expected {shard_name(number)} here; remove the shards after the gap and rerun")
    return [len(shard_index(path).samples) for path in paths]
