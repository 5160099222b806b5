"""Preference folders made from others by changing parts of their samples."""

from collections.abc import Callable
from pathlib import Path

import torch

from adhmr.data.shard_reader import ShardReader
from adhmr.data.shard_writer import ShardWriter
from adhmr.models.base_model import BaseModel
from adhmr.preference.records import encode_array, features_to_array


def rewritten(source: Path, folder: Path, change: Callable[[int, dict, dict], None]) -> Path:
    """A folder of the same samples in shards of four; change(row, provenance, extras) makes others of their parts."""
    reader = ShardReader(source)
    with ShardWriter(folder, source="rewritten", split="train", licence="none", samples_per_shard=4) as writer:
        for row in range(len(reader)):
            members, sample = reader.read_members(row), reader.read(row)
            provenance = sample.provenance
            extras = {name: members[name] for name in members if name not in ("jpg", "npy", "json")}
            change(row, provenance, extras)
            writer.write(sample.key, members["jpg"], sample.record, provenance, extras)
    return folder


def in_fp32(source: Path, folder: Path, base: BaseModel) -> Path:
    """With the features that the base has of the stored images, in single precision."""
    reader = ShardReader(source)

    def change(row: int, provenance: dict, extras: dict) -> None:
        image = torch.from_numpy(reader.read(row).image.transpose(2, 0, 1).copy())
        with torch.no_grad():
            extras["features.npy"] = encode_array(features_to_array(base.encoder(image[None]), 0, "fp32"))

    return rewritten(source, folder, change)
