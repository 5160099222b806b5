"""index.json: which samples a shard folder holds and where their bytes are.

Shards are written in shard_writer.py and samples are read in shard_reader.py.
"""

import hashlib
import json
import tarfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from adhmr.data.schema import SCHEMA_VERSION
from adhmr.errors import AdhmrError

INDEX_NAME = "index.json"
INDEX_VERSION = 1
BLOCK = 512  # bytes of a tar header, and the unit to which members are padded


def canonical_json(value: object) -> bytes:
    """JSON with sorted keys and no spaces: the same value always gives the same bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


@dataclass(slots=True)
class ShardEntry:
    """One shard's part of the index; lists are one element a sample, in file order.

    offsets[ext] and sizes[ext] are the byte range of the member's data, -1 where a sample lacks it. crc32 covers the
    bytes from the sample's first header to the end of its last member.
    """

    name: str
    size: int = 0
    sha256: str = ""
    keys: list[str] = field(default_factory=list)
    crc32: list[int] = field(default_factory=list)
    offsets: dict[str, list[int]] = field(default_factory=dict)
    sizes: dict[str, list[int]] = field(default_factory=dict)

    def append(self, key: str, ranges: dict[str, tuple[int, int]], crc32: int) -> None:
        for extension in ranges.keys() | self.offsets.keys():
            offset, size = ranges.get(extension, (-1, -1))
            self.offsets.setdefault(extension, [-1] * len(self.keys)).append(offset)
            self.sizes.setdefault(extension, [-1] * len(self.keys)).append(size)
        self.keys.append(key)
        self.crc32.append(crc32)

    def to_json(self) -> dict:
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, value: dict) -> "ShardEntry":
        return cls(**value)


@dataclass(frozen=True, slots=True)
class SampleLocation:
    """Where one sample lies: `span` bytes from `start` of the shard; members as (offset from start, size)."""

    shard: str
    start: int
    span: int
    crc32: int
    members: dict[str, tuple[int, int]]


def list_shards(folder: Path) -> list[Path]:
    """The whole shards of a folder in order of name (unfinished ones have names that begin with a dot)."""
    return sorted(path for path in folder.glob("*.tar") if not path.name.startswith("."))


def scan_shard(path: Path) -> ShardEntry:
    """Read a whole tar file and describe it; raises AdhmrError when it is damaged or its members are not samples."""
    data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
    entry = ShardEntry(path.name, len(data), hashlib.sha256(data).hexdigest())
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    end = 0
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                if not member.isreg() or not extension:
                    raise AdhmrError(f"{path}: member {member.name} is not a file KEY.EXTENSION")
                if key in samples and key != next(reversed(samples)):
                    raise AdhmrError(f"{path}: the members of sample {key} are not together; write the shard again")
                samples.setdefault(key, {})[extension] = (member.offset_data, member.size)
                end = member.offset_data + -(-member.size // BLOCK) * BLOCK
        # tarfile takes a file cut inside a header for one that ends there; a whole tar ends in two blocks of zeros.
        if len(data) < end + 2 * BLOCK or data[end : end + 2 * BLOCK].any():
            raise tarfile.ReadError("its end is missing")
    except tarfile.TarError as error:
        raise AdhmrError(f"{path}: not a whole tar ({error}); delete it and rerun its writer") from error
    for key, ranges in samples.items():
        start, stop = _span(list(ranges.values()))
        if "jpg" not in ranges or "npy" not in ranges:
            raise AdhmrError(f"{path}: sample {key} has members {sorted(ranges)}; expected at least jpg and npy")
        entry.append(key, ranges, zlib.crc32(data[start:stop]))
    return entry


def index_document(folder: Path, source: str, split: str, licence: str, shards: list[ShardEntry]) -> dict:
    """The content of index.json; raises AdhmrError when there is no sample or a key comes twice."""
    num_samples = sum(len(shard.keys) for shard in shards)
    if num_samples == 0:
        raise AdhmrError(f"{folder} holds no samples: nothing to index")
    seen: dict[str, str] = {}
    for shard in shards:
        for key in shard.keys:
            if key in seen:
                raise AdhmrError(f"{folder}: key {key} is in {seen[key]} and in {shard.name}; keys must be unique")
            seen[key] = shard.name
    return {
        "index_version": INDEX_VERSION,
        "schema_version": SCHEMA_VERSION,
        "source": source,
        "split": split,
        "licence": licence,
        "num_samples": num_samples,
        "shards": [shard.to_json() for shard in shards],
    }


class DataSetIndex:
    """The index of one shard folder, checked against the files that are there.

    Attributes: folder, name (of the folder unless given), num_samples, keys (one a row), shard_counts, fingerprint
    (sha256 of the index, which holds every shard's sha256), source, split, licence, num_bytes.
    """

    def __init__(self, folder: Path, document: dict, name: str | None = None) -> None:
        self.folder = folder
        self.name = name or folder.resolve().name
        self.source, self.split, self.licence = document["source"], document["split"], document["licence"]
        self.fingerprint = hashlib.sha256(canonical_json(document)).hexdigest()
        shards = [ShardEntry.from_json(shard) for shard in document["shards"]]
        self.shard_names = [shard.name for shard in shards]
        self.shard_sizes = [shard.size for shard in shards]
        self.shard_counts = [len(shard.keys) for shard in shards]
        self.num_samples = sum(self.shard_counts)
        self.num_bytes = sum(self.shard_sizes)
        self.keys = [key for shard in shards for key in shard.keys]
        self._first_row = np.concatenate([[0], np.cumsum(self.shard_counts)])  # (shards + 1,)
        self._crc32 = np.asarray([value for shard in shards for value in shard.crc32], np.uint32)  # (rows,)
        self._extensions = sorted({extension for shard in shards for extension in shard.offsets})
        missing = [-1]
        self._ranges = np.asarray(  # (extensions, 2, rows): offset and size of each member
            [
                [
                    [value for shard in shards for value in part(shard).get(extension, missing * len(shard.keys))]
                    for part in (lambda shard: shard.offsets, lambda shard: shard.sizes)
                ]
                for extension in self._extensions
            ],
            np.int64,
        )

    @classmethod
    def load(cls, folder: str | Path, name: str | None = None) -> "DataSetIndex":
        """Open a shard folder. Raises AdhmrError: no folder, no or foreign index, a shard that is missing or cut."""
        folder = Path(folder)
        if not folder.is_dir():
            raise AdhmrError(f"{folder} is not a folder: expected a folder of shards with an {INDEX_NAME}")
        path = folder / INDEX_NAME
        if not path.exists():
            raise AdhmrError(
                f"{folder} has no {INDEX_NAME}: unfinished or not an ADHMR shard folder; "
                "rerun the command that writes it"
            )
        try:
            document = json.loads(path.read_bytes())
            versions = (document["index_version"], document["schema_version"])
        except (ValueError, KeyError, TypeError) as error:
            raise AdhmrError(f"{path} is not an ADHMR index ({error!r}); rebuild it with `adhmr data index`") from error
        for kind, found, known in zip(("index", "schema"), versions, (INDEX_VERSION, SCHEMA_VERSION), strict=True):
            if found != known:
                raise AdhmrError(
                    f"{path} is of {kind} version {found}, this adhmr reads {known}: its shards must be made again; "
                    "delete the folder and rerun the command that wrote it"
                )
        try:
            index = cls(folder, document, name)
        except (KeyError, TypeError, ValueError) as error:
            raise AdhmrError(f"{path} is damaged ({error!r}); rebuild it with `adhmr data index`") from error
        index.check_files()
        return index

    def check_files(self) -> None:
        """Raise AdhmrError unless every shard is there with the size the index says (one stat a shard)."""
        for name, size in zip(self.shard_names, self.shard_sizes, strict=True):
            path = self.folder / name
            remedy = "rerun its writer or copy it again, or index what is there with `adhmr data index`"
            try:
                actual = path.stat().st_size
            except FileNotFoundError:
                raise AdhmrError(f"{path} is missing but listed in {INDEX_NAME}: {remedy}") from None
            if actual != size:
                raise AdhmrError(f"{path} has {actual} bytes, {INDEX_NAME} says {size}: {remedy}")

    def locate(self, row: int) -> SampleLocation:
        """Where the sample of a row lies; raises IndexError for a row out of range."""
        if not 0 <= row < self.num_samples:
            raise IndexError(f"row {row} of {self.name}, which has {self.num_samples} samples")
        shard = int(np.searchsorted(self._first_row, row, side="right")) - 1
        members = {
            extension: (int(offset), int(size))
            for extension, (offset, size) in zip(self._extensions, self._ranges[:, :, row], strict=True)
            if offset >= 0
        }
        start, stop = _span(list(members.values()))
        relative = {extension: (offset - start, size) for extension, (offset, size) in members.items()}
        return SampleLocation(self.shard_names[shard], start, stop - start, int(self._crc32[row]), relative)


def _span(ranges: list[tuple[int, int]]) -> tuple[int, int]:
    """First header byte and end of the last member."""
    return min(offset for offset, _ in ranges) - BLOCK, max(offset + size for offset, size in ranges)
