"""Reading one sample of a shard folder by its row: one positioned read, a checksum, a JPEG decode.

Which row comes when is in sampler.py; what is made of a sample is in transforms.py.
"""

import io
import os
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import simplejpeg

from adhmr.config.data import FilterConfig
from adhmr.data.index import DataSetIndex, SampleLocation
from adhmr.data.schema import RawSample, decode_record
from adhmr.errors import AdhmrError

MAX_OPEN_SHARDS = 128


class CorruptSampleError(AdhmrError):
    """One sample cannot be used; `dataset`, `shard`, `key` and `reason` say which and why."""

    def __init__(self, dataset: str, shard: str, key: str, reason: str) -> None:
        super().__init__(dataset, shard, key, reason)
        self.dataset, self.shard, self.key, self.reason = dataset, shard, key, reason

    def __str__(self) -> str:
        return f"data set {self.dataset}, {self.shard}, sample {self.key}: {self.reason}"


class ShardReader:
    """Random access to the samples of one shard folder, local or remote; may be sent to worker processes.

    With a filter, rows are those that it leaves. Attributes: index.
    Raises AdhmrError from DataSetIndex.load when the folder cannot be read as a data set.
    """

    def __init__(self, folder: str | Path, name: str | None = None, filter: FilterConfig | None = None) -> None:
        self.index = DataSetIndex.load(folder, name, filter)
        self._descriptors: OrderedDict[str, int] = OrderedDict()

    @classmethod
    def of(cls, index: DataSetIndex) -> "ShardReader":
        """A reader of a data set that is open already."""
        reader = cls.__new__(cls)
        reader.__setstate__({"index": index})
        return reader

    @property
    def name(self) -> str:
        return self.index.name

    def __len__(self) -> int:
        return self.index.num_samples

    def read(self, row: int) -> RawSample:
        """The sample of a row, image (H, W, 3) uint8 RGB.

        Raises CorruptSampleError when its bytes are not those that were written or do not decode, OSError when the
        file cannot be read.
        """
        location = self.index.locate(row)
        members = self._members(row, location)
        try:
            record = decode_record(members.pop("npy"))
            image = decode_jpeg(members.pop("jpg"))
            extras = {name: _decode_extra(name, data) for name, data in members.items()}
        except (KeyError, ValueError) as error:
            raise self._corrupt(row, location, f"does not decode ({error})") from error
        if tuple(record["image_size"]) != image.shape[:2]:
            sizes = f"{image.shape[:2]}, its record says {tuple(int(size) for size in record['image_size'])}"
            raise self._corrupt(row, location, f"the image has (height, width) {sizes}")
        return RawSample(self.name, self.index.keys[row], image, record, extras)

    def read_record(self, row: int) -> np.void:
        """Only the record of a row; raises as read does."""
        location = self.index.locate(row)
        try:
            return decode_record(self._members(row, location)["npy"])
        except ValueError as error:
            raise self._corrupt(row, location, f"does not decode ({error})") from error

    def read_members(self, row: int) -> dict[str, bytes]:
        """The members of a row by extension, as they are stored; raises as read does, but decodes nothing."""
        return {name: bytes(data) for name, data in self._members(row, self.index.locate(row)).items()}

    def close(self) -> None:
        """Close the open shards; reading opens them again."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def _members(self, row: int, location: SampleLocation) -> dict[str, memoryview]:
        data = os.pread(self._descriptor(location.shard), location.span, location.start)
        if len(data) != location.span:
            raise self._corrupt(row, location, f"{len(data)} of {location.span} bytes could be read")
        if zlib.crc32(data) != location.crc32:
            raise self._corrupt(row, location, "its bytes differ from those that were written (checksum)")
        view = memoryview(data)  # parts of what was read, not copies
        return {name: view[offset : offset + size] for name, (offset, size) in location.members.items()}

    def _corrupt(self, row: int, location: SampleLocation, reason: str) -> CorruptSampleError:
        return CorruptSampleError(self.name, location.shard, self.index.keys[row], reason)

    def _descriptor(self, shard: str) -> int:
        if shard not in self._descriptors:
            if len(self._descriptors) >= MAX_OPEN_SHARDS:
                os.close(self._descriptors.popitem(last=False)[1])
            self._descriptors[shard] = self.index.open_shard(shard)
        self._descriptors.move_to_end(shard)
        return self._descriptors[shard]

    def __getstate__(self) -> dict:
        return {"index": self.index}

    def __setstate__(self, state: dict) -> None:
        self.index = state["index"]
        self._descriptors = OrderedDict()

    def __del__(self) -> None:
        if hasattr(self, "_descriptors"):
            self.close()


def decode_jpeg(data: bytes | memoryview) -> np.ndarray:
    """(H, W, 3) uint8 RGB; raises ValueError when the bytes are not an image.

    EXIF orientation is not applied: labels are in the pixels as stored.
    """
    # Of the libraries with wheels this one is the fastest (docs/benchmarks.md); OpenCV gives the same pixels.
    return simplejpeg.decode_jpeg(data, "RGB")


def _decode_extra(name: str, data: memoryview) -> bytes | np.ndarray:
    if name.endswith("npy"):
        return np.load(io.BytesIO(data), allow_pickle=False)
    return bytes(data)
