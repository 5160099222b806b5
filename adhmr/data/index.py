"""A data set as its manifest (index.json) and memory-mapped tables describe it: which samples it has, and where.

They are written in index_build.py; samples are read in shard_reader.py; rows of a filter come from filter_rows.py.
"""

import hashlib
import json
import shlex
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from adhmr.config.data import FilterConfig, folder_name
from adhmr.data.filter_rows import FilterTable, find_filter
from adhmr.data.schema import SCHEMA_VERSION
from adhmr.data.storage import FileEntry, LocalFolder, RemoteFolder, map_array, open_folder
from adhmr.errors import AdhmrError

INDEX_NAME, SAMPLES_NAME, KEYS_NAME = "index.json", "index-samples.npy", "index-keys.npy"
KEYS_AT_ONCE = 4096  # when all keys are read in order
INDEX_VERSION = 2  # 2: samples in tables beside it, no longer in the file itself


def canonical_json(value: object) -> bytes:
    """JSON with sorted keys and no spaces: the same value always gives the same bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


@dataclass(frozen=True, slots=True)
class SampleLocation:
    """Where one sample lies: `span` bytes from `start` of the shard; members as (offset from start, size)."""

    shard: str
    start: int
    span: int
    crc32: int
    members: dict[str, tuple[int, int]]


class DataSetIndex:
    """The index of one shard folder; only what is asked for is read of its tables.

    Attributes: folder (Path, or a URL as text), name (of the folder unless given), num_samples, keys (one a row, read
    lazily), shard_names, shard_sizes, shard_counts, fingerprint (sha256 of the manifest, which holds every file's
    sha256; with a filter, of the filter's description), source, split, licence, num_bytes.
    """

    def __init__(
        self,
        storage: LocalFolder | RemoteFolder,
        document: dict,
        name: str | None = None,
        filter_table: FilterTable | None = None,
    ) -> None:
        self.storage, self.document, self.filter_table = storage, document, filter_table
        self.folder = storage.location
        self.name = name or folder_name(self.folder)
        self.source, self.split, self.licence = document["source"], document["split"], document["licence"]
        self.extensions = tuple(document["extensions"])
        self.shard_names = [shard["name"] for shard in document["shards"]]
        self.shard_sizes = [shard["size"] for shard in document["shards"]]
        self.num_bytes = sum(self.shard_sizes)
        # (shards + 1,): rows of the tables before each shard
        self.first_row = np.concatenate([[0], np.cumsum([shard["samples"] for shard in document["shards"]])])
        if filter_table is None:
            self.fingerprint = hashlib.sha256(canonical_json(document)).hexdigest()
            self.shard_counts = np.diff(self.first_row).tolist()
        else:
            self.fingerprint = filter_table.fingerprint
            self.shard_counts = np.diff(np.searchsorted(self.rows, self.first_row)).tolist()
        self.num_samples = sum(self.shard_counts)

    @classmethod
    def load(
        cls, folder: str | Path, name: str | None = None, filter: FilterConfig | None = None, check: bool = True
    ) -> "DataSetIndex":
        """Open a shard folder, local or remote, or the rows of it that a filter leaves.

        `check` looks whether its files are there (one stat each; remote files are checked when they arrive).

        Raises AdhmrError: no folder, no or foreign index, a local file that is missing or cut, a filter that was not
        built.
        """
        storage = open_folder(folder)
        index = cls._checked(storage, read_manifest(storage), name)
        if check:
            index.check_files()
        if filter is None:
            return index
        return cls._checked(storage, index.document, name, find_filter(storage, index.fingerprint, filter))

    @classmethod
    def _checked(cls, storage: LocalFolder | RemoteFolder, document: dict, *others: object) -> "DataSetIndex":
        try:
            return cls(storage, document, *others)
        except (KeyError, TypeError, ValueError) as error:
            raise AdhmrError(f"{storage}/{INDEX_NAME} is damaged ({error!r}); {rebuild_command(storage)}") from error

    def check_files(self) -> None:
        """Raise AdhmrError unless every local file is there with the size the manifest says."""
        for name, size in [*zip(self.shard_names, self.shard_sizes, strict=True), *self._tables()]:
            problem = file_problem(self.storage, name, size)
            if problem:
                remedy = "rerun its writer or copy it again, or index what is there with `adhmr data index`"
                raise AdhmrError(f"{self.folder}/{name} {problem}: {remedy}")

    @cached_property
    def samples(self) -> np.ndarray:
        """(rows of the folder,) sample_dtype of shard_index.py, mapped."""
        return self._map(FileEntry(SAMPLES_NAME, **self.document["tables"][SAMPLES_NAME]), int(self.first_row[-1]))

    @cached_property
    def key_bytes(self) -> np.ndarray:
        """The keys of all rows of the folder, one after another; (bytes,) uint8, mapped."""
        return self._map(FileEntry(KEYS_NAME, **self.document["tables"][KEYS_NAME]))

    @cached_property
    def rows(self) -> np.ndarray | None:
        """(num_samples,) uint32, mapped, ascending: the rows of the tables that the filter leaves; None without one."""
        return None if self.filter_table is None else self._map(self.filter_table.file, self.filter_table.num_samples)

    @property
    def keys(self) -> "Keys":
        return Keys(self)

    def locate(self, row: int) -> SampleLocation:
        """Where the sample of a row lies; raises IndexError for a row out of range."""
        number = self.table_row(row)
        shard = bisect_right(self._first_rows, number) - 1
        _, start, span, crc32, places = self.samples[number].item()
        members = {name: (offset, size) for name, (offset, size) in zip(self.extensions, places.tolist()) if offset}
        return SampleLocation(self.shard_names[shard], start, span, crc32, members)

    def table_row(self, row: int) -> int:
        """The row of the folder's tables that a row of this (perhaps filtered) data set is."""
        if not 0 <= row < self.num_samples:
            raise IndexError(f"row {row} of {self.name}, which has {self.num_samples} samples")
        return row if self.rows is None else int(self.rows[row])

    def open_shard(self, name: str) -> int:
        """A descriptor of a shard; raises OSError, and AdhmrError for a remote one that cannot be fetched."""
        return self.storage.open(self._shard_files[name])

    @cached_property
    def _shard_files(self) -> dict[str, FileEntry]:
        shards = self.document["shards"]
        return {shard["name"]: FileEntry(shard["name"], shard["size"], shard["sha256"]) for shard in shards}

    @cached_property
    def _first_rows(self) -> list[int]:
        return self.first_row.tolist()

    def _tables(self) -> list[tuple[str, int]]:
        return [(name, table["size"]) for name, table in self.document["tables"].items()]

    def _map(self, entry: FileEntry, length: int | None = None) -> np.ndarray:
        try:
            array = map_array(self.storage.open(entry))
        except (OSError, ValueError) as error:
            raise AdhmrError(f"{self.folder}/{entry.name} cannot be read ({error}); {rebuild_command(self)}") from error
        if length not in (None, len(array)):
            raise AdhmrError(
                f"{self.folder}/{entry.name} has {len(array)} rows, expected {length}; {rebuild_command(self)}"
            )
        return array

    def __reduce__(self) -> tuple:
        # Tables are mapped anew where it arrives; nothing is checked again.
        return DataSetIndex, (self.storage, self.document, self.name, self.filter_table)


class Keys(Sequence):
    """The keys of a data set, one a row, each read from the mapped table when it is asked for."""

    def __init__(self, index: DataSetIndex) -> None:
        self._index = index

    def __len__(self) -> int:
        return self._index.num_samples

    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[number] for number in range(*row.indices(len(self)))]
        number = self._index.table_row(row + len(self) if row < 0 else row)
        stops = self._index.samples["key_stop"]
        start = int(stops[number - 1]) if number else 0
        return self._index.key_bytes[start : int(stops[number])].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        stops, rows = self._index.samples["key_stop"], self._index.rows
        for first in range(0, len(self), KEYS_AT_ONCE):
            last = min(first + KEYS_AT_ONCE, len(self))
            numbers = np.arange(first, last) if rows is None else rows[first:last].astype(np.int64)
            ends = stops[numbers].astype(np.int64)
            starts = np.where(numbers > 0, stops[numbers - 1], 0).astype(np.int64)
            blob = self._index.key_bytes[starts[0] : ends[-1]].tobytes()  # rows ascend, and so do their keys' bytes
            for start, end in zip((starts - starts[0]).tolist(), (ends - starts[0]).tolist(), strict=True):
                yield blob[start:end].decode()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (Keys, list, tuple)):
            return NotImplemented
        return len(self) == len(other) and all(own == theirs for own, theirs in zip(self, other, strict=True))


def read_manifest(storage: LocalFolder | RemoteFolder) -> dict:
    """The content of index.json; raises AdhmrError when there is none that this version reads."""
    path = f"{storage}/{INDEX_NAME}"
    try:
        content = storage.read(INDEX_NAME)
    except FileNotFoundError:
        raise AdhmrError(
            f"{storage} has no {INDEX_NAME}: unfinished or not an ADHMR shard folder; rerun the command that writes "
            f"it, or, for shards of another writer, {rebuild_command(storage)}"
        ) from None
    try:
        document = json.loads(content)
        index_version, schema_version = document["index_version"], document["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise AdhmrError(f"{path} is not an ADHMR index ({error!r}); {rebuild_command(storage)}") from error
    if schema_version != SCHEMA_VERSION:
        raise AdhmrError(
            f"{path} is of schema version {schema_version}, this adhmr reads {SCHEMA_VERSION}: its shards must be made "
            "again; delete the folder and rerun the command that wrote it"
        )
    if index_version != INDEX_VERSION:
        raise AdhmrError(
            f"{path} is of index version {index_version}, this adhmr reads {INDEX_VERSION}; the shards can stay: "
            f"{rebuild_command(storage, document)}"
        )
    return document


def rebuild_command(folder: object, document: dict | None = None) -> str:
    """What to run to make the index of a folder anew; with the texts of an older manifest where there is one."""
    folder = folder.folder if isinstance(folder, DataSetIndex) else folder
    texts = {name: (document or {}).get(name) for name in ("source", "split", "licence")}
    options = " ".join(f"--{name} {shlex.quote(str(text)) if text else name.upper()}" for name, text in texts.items())
    return f"run `adhmr data index {shlex.quote(str(folder))} {options}`"


def file_problem(storage: LocalFolder | RemoteFolder, name: str, size: int) -> str | None:
    """What is wrong with a file's presence or size; None when nothing is, or when it is remote."""
    try:
        actual = storage.size(name)
    except FileNotFoundError:
        return f"is missing but listed in {INDEX_NAME}"
    return None if actual in (None, size) else f"has {actual} bytes, {INDEX_NAME} says {size}"
