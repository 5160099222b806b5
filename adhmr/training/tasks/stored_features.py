"""Whether an alignment takes the encoder's features from its preference folders in place of images. What they hold is
in adhmr.preference.records."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import numpy as np

from adhmr.config.alignment import DpoStage
from adhmr.data.shard_reader import ShardReader
from adhmr.errors import AdhmrError
from adhmr.models.encoder import ImageEncoder
from adhmr.preference.records import encoder_hash

MADE_IN = {"fp32": ("fp32",), "bf16": ("fp32", "bf16")}  # precisions of features that a run of that precision takes

log = logging.getLogger(__name__)


class _Unfit(Exception):
    """Why features are not taken; `silent`: not worth a warning, as there are none."""

    def __init__(self, reason: str, silent: bool = False):
        super().__init__(reason)
        self.silent = silent


def features_are_stored(config: DpoStage, encoder: ImageEncoder) -> bool:
    """Looks at the first sample of every shard; `encoder` is the frozen one.

    Raises AdhmrError with `features: stored` when they are missing, of another encoder, or of a lower precision than
    the run's.
    """
    if config.features == "images" or config.train_encoder or config.augment is not None:
        return False
    try:
        _check(config, encoder_hash(encoder))
        return True
    except _Unfit as unfit:
        if config.features == "stored":
            raise AdhmrError(f"features: stored: {unfit}; or set features: images") from None
        if not unfit.silent:
            log.warning(f"{unfit}; features are made from the images")
        return False


def _check(config: DpoStage, own: str) -> None:
    """Raises _Unfit."""
    taken, kinds = MADE_IN[config.train.precision], {}
    for item in config.preferences:
        for place, members in _first_samples(ShardReader(item.path)):
            provenance = json.loads(members.get("json", b"{}"))
            if "features.npy" not in members:
                raise _Unfit(f"{place} holds no features; generate with features: fp16 or fp32", silent=True)
            if provenance.get("encoder") != own:
                what = f"{provenance.get('encoder')}, of {config.base} it is {own}"
                raise _Unfit(f"{place} holds features of another encoder (hash {what}); generate from this model")
            made = provenance.get("precision", "fp32")
            if made not in taken:
                what = f"made in {made}, but train.precision is {config.train.precision}"
                raise _Unfit(f"{place} holds features {what}; generate with precision: fp32, or train in {made}")
            kinds.setdefault(np.load(io.BytesIO(members["features.npy"]))["memory"].dtype.name, place)
    if len(kinds) > 1:
        raise _Unfit(f"features differ in type: {', '.join(f'{kind} in {place}' for kind, place in kinds.items())}")


def _first_samples(reader: ShardReader) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(name of the place, members) of the first sample of every shard: a folder may be put together from several."""
    row = 0
    for count in reader.index.shard_counts:
        if count:
            yield f"{reader.name}/{reader.index.locate(row).shard}", reader.read_members(row)
        row += count
    reader.close()
