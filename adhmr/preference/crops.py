"""The crops of a data set as the networks see them and as shards keep them. Runs on any number of threads; what the
networks make of the crops is in generator.py."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from adhmr.config.generation import GenerateStage
from adhmr.data.randomness import RandomKey
from adhmr.data.shard_reader import ShardReader, decode_jpeg
from adhmr.data.transforms import LabelledCrop, PersonCrop
from adhmr.preference.hypotheses import hypothesis_noise

JPEG_QUALITY = 95


@dataclass(frozen=True, slots=True)
class Crop:
    """One image, cut. Its pixels are those of its JPEG: what is sampled and stored by them holds for who reads it."""

    item: dict[str, Any]  # of PersonCrop, and noise (M, 133)
    jpeg: bytes
    record: np.void  # the label in the crop's frame
    provenance: dict  # of the sample that it was cut from


class CropCutter:
    """Row of a data set -> Crop. `exact`: labels must have pose, shape and depth."""

    def __init__(self, reader: ShardReader, config: GenerateStage, exact: bool):
        self._index, self._config = reader.index, config
        self._cut = (LabelledCrop if exact else PersonCrop)(config.crop)
        self._own = threading.local()  # readers: one keeps files open, and is for one thread

    def __call__(self, row: int) -> Crop:
        if not hasattr(self._own, "reader"):
            self._own.reader = ShardReader.of(self._index)
        config, sample = self._config, self._own.reader.read(row)
        item = self._cut(sample, RandomKey(config.seed, row))
        jpeg = _jpeg(item["image"])
        item["image"] = np.ascontiguousarray(decode_jpeg(jpeg).transpose(2, 0, 1))
        item["noise"] = hypothesis_noise(config.seed, [sample.key], config.hypotheses)[0].numpy()
        return Crop(item, jpeg, _in_crop(sample.record, item, config.crop.size), sample.provenance)


def _jpeg(image: np.ndarray) -> bytes:
    """Of an image (3, S, S) RGB."""
    bgr = np.ascontiguousarray(image[::-1].transpose(1, 2, 0))
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def _in_crop(record: np.void, item: dict[str, Any], size: int) -> np.void:
    """The label record in the frame of the network crop, which is the image that a preference sample stores."""
    moved = record.copy()
    moved["joints29_px"], moved["intrinsics"] = item["uvd"][:, :2], item["intrinsics"]
    moved["image_size"] = size
    return moved
