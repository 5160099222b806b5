"""What one shard holds and where: made by its writer or by scanning the tar, kept beside it in NNNNNN.tar.idx.

The tables of a whole data set are joined from these in index_build.py and read in index.py.
"""

import hashlib
import struct
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adhmr.data.schema import decode_record
from adhmr.errors import AdhmrError

BLOCK = 512  # bytes of a tar header, and the unit to which members are padded
SIDECAR_MAGIC, SIDECAR_VERSION = b"ADHMRIDX", 1
SIDECAR_HEADER = struct.Struct("<8sIIQQ32s")  # magic, version, extensions, bytes of the shard, samples, its SHA-256
EXTENSION_BYTES = 32  # of a name in the sidecar, filled up with zeros
SPAN_LIMIT = 2**32  # bytes of one sample
COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


def sample_dtype(extensions: int) -> np.dtype:
    """One row of an index: where a sample lies, and its members in the order of the shard's or set's extensions.

    key_stop is where its key ends in the blob of keys (it begins where the row before ends); members are (offset from
    the sample's first header, size), and (0, 0) where it lacks that member.
    """
    return np.dtype(
        [
            ("key_stop", "<u8"),
            ("offset", "<u8"),
            ("span", "<u4"),
            ("crc32", "<u4"),
            ("members", "<u4", (extensions, 2)),
        ]
    )


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """One shard: its file, its extensions (sorted), a row for each sample and the blob of their keys."""

    name: str
    size: int
    sha256: str
    extensions: tuple[str, ...]
    samples: np.ndarray  # (samples,) sample_dtype
    keys: bytes

    def key_list(self) -> list[str]:
        """The keys in file order."""
        stops = self.samples["key_stop"].tolist()
        return [self.keys[start:stop].decode() for start, stop in zip([0, *stops[:-1]], stops, strict=True)]

    def encode(self) -> bytes:
        """The bytes of the sidecar; the same shard always gives the same."""
        header = SIDECAR_HEADER.pack(
            SIDECAR_MAGIC,
            SIDECAR_VERSION,
            len(self.extensions),
            self.size,
            len(self.samples),
            bytes.fromhex(self.sha256),
        )
        names = b"".join(name.encode().ljust(EXTENSION_BYTES, b"\0") for name in self.extensions)
        return header + names + self.samples.tobytes() + self.keys

    @classmethod
    def decode(cls, name: str, data: bytes) -> "ShardIndex":
        """The inverse of encode for the shard called `name`; raises ValueError when the bytes hold anything else."""
        if len(data) < SIDECAR_HEADER.size:
            raise ValueError("cut short")
        magic, version, extensions, size, samples, sha256 = SIDECAR_HEADER.unpack_from(data)
        if (magic, version) != (SIDECAR_MAGIC, SIDECAR_VERSION):
            raise ValueError(f"magic {magic!r}, version {version}; expected {SIDECAR_MAGIC!r}, {SIDECAR_VERSION}")
        dtype = sample_dtype(extensions)
        first = SIDECAR_HEADER.size + extensions * EXTENSION_BYTES
        last = first + samples * dtype.itemsize
        if len(data) < last:
            raise ValueError("cut short")
        names = data[SIDECAR_HEADER.size : first]
        parts = [names[start : start + EXTENSION_BYTES] for start in range(0, len(names), EXTENSION_BYTES)]
        rows = np.frombuffer(data, dtype, samples, first)
        if len(data) - last != (int(rows["key_stop"][-1]) if samples else 0):
            raise ValueError("its keys are cut short")
        return cls(name, size, sha256.hex(), tuple(part.rstrip(b"\0").decode() for part in parts), rows, data[last:])


class ShardIndexBuilder:
    """Collects the samples of a shard in file order."""

    def __init__(self) -> None:
        self.keys: list[bytes] = []
        self._rows: list[tuple[int, int, int, dict[str, tuple[int, int]]]] = []

    def append(self, key: str, ranges: dict[str, tuple[int, int]], crc32: int) -> None:
        """Add a sample: (first data byte in the tar, size) by extension, and the checksum of its span."""
        start, stop = span_of(ranges)
        if stop - start >= SPAN_LIMIT:
            raise AdhmrError(f"sample {key} has {stop - start} bytes; a sample may have less than {SPAN_LIMIT}")
        members = {extension: (offset - start, size) for extension, (offset, size) in ranges.items()}
        self.keys.append(key.encode())
        self._rows.append((start, stop - start, crc32, members))

    def finish(self, name: str, size: int, sha256: str) -> ShardIndex:
        extensions = tuple(sorted({extension for *_, members in self._rows for extension in members}))
        number = {extension: column for column, extension in enumerate(extensions)}
        rows = np.zeros(len(self._rows), sample_dtype(len(extensions)))
        rows["key_stop"] = np.cumsum([len(key) for key in self.keys], dtype=np.uint64)
        for row, (start, span, crc32, members) in zip(rows, self._rows, strict=True):
            row["offset"], row["span"], row["crc32"] = start, span, crc32
            for extension, place in members.items():
                row["members"][number[extension]] = place
        return ShardIndex(name, size, sha256, extensions, rows, b"".join(self.keys))


def span_of(ranges: dict[str, tuple[int, int]]) -> tuple[int, int]:
    """First header byte and end of the last member, of members given as (first data byte, size)."""
    return min(offset for offset, _ in ranges.values()) - BLOCK, max(offset + size for offset, size in ranges.values())


def sidecar_path(shard: Path) -> Path:
    """NNNNNN.tar.idx beside NNNNNN.tar."""
    return shard.with_name(shard.name + ".idx")


def read_sidecar(shard: Path) -> ShardIndex | None:
    """What the sidecar says of a shard; None when there is none that was made for a file of this size."""
    try:
        index = ShardIndex.decode(shard.name, sidecar_path(shard).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return index if index.size == shard.stat().st_size else None


def scan_shard(path: Path) -> ShardIndex:
    """Read a whole tar file and describe it.

    Raises AdhmrError when it is compressed or damaged, or when its members are not samples of ours.
    """
    data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
    start = data[:8].tobytes()
    for magic, method in COMPRESSIONS.items():
        if start.startswith(magic):
            raise compressed(path, method)
    samples, end = _members(path)
    # tarfile takes a file cut inside a header for one that ends there; a whole tar ends in two blocks of zeros.
    if len(data) < end + 2 * BLOCK or data[end : end + 2 * BLOCK].any():
        raise AdhmrError(f"{path}: not a whole tar (its end is missing); delete it and rerun its writer")
    builder = ShardIndexBuilder()
    for number, (key, ranges) in enumerate(samples.items()):
        if "jpg" not in ranges or "npy" not in ranges:
            raise AdhmrError(
                f"{path}: sample {key} has members {sorted(ranges)}; a sample needs {key}.jpg (the person) and "
                f"{key}.npy (its labels, one SAMPLE_DTYPE record); see docs/data.md, 'Bringing your own set'"
            )
        first, stop = span_of(ranges)
        if number == 0:
            offset, size = ranges["npy"]
            _check_record(path, key, data[offset : offset + size].tobytes())
        builder.append(key, ranges, zlib.crc32(data[first:stop]))
    return builder.finish(path.name, len(data), hashlib.sha256(data).hexdigest())


def compressed(path: Path, method: str) -> AdhmrError:
    """The error for a compressed tar."""
    return AdhmrError(
        f"{path} is compressed ({method}): a sample in it cannot be read without unpacking all before it; unpack it to "
        "a plain .tar (JPEGs do not get smaller by it)"
    )


def _members(path: Path) -> tuple[dict[str, dict[str, tuple[int, int]]], int]:
    """(first data byte, size) by key and extension, in file order, and where the last member ends in blocks."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    end = 0
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                end = member.offset_data + -(-member.size // BLOCK) * BLOCK
                if member.isdir():  # `tar c .` writes one
                    continue
                key, _, extension = member.name.removeprefix("./").partition(".")
                if not member.isreg() or not key or not extension or len(extension.encode()) > EXTENSION_BYTES:
                    raise AdhmrError(f"{path}: member {member.name} is not a file KEY.EXTENSION")
                if key in samples and key != next(reversed(samples)):
                    raise AdhmrError(f"{path}: the members of sample {key} are not together; write the shard again")
                samples.setdefault(key, {})[extension] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        raise AdhmrError(f"{path}: not a whole tar ({error}); delete it and rerun its writer") from error
    return samples, end


def _check_record(path: Path, key: str, data: bytes) -> None:
    # One record a shard tells another schema from ours; all of them are checked by `adhmr data verify`.
    try:
        decode_record(data)
    except (ValueError, EOFError) as error:
        raise AdhmrError(
            f"{path}: {key}.npy is not one SAMPLE_DTYPE record ({error}); see docs/data.md, 'The label record'"
        ) from error
