"""The preference folders of one data set as work for the workers: its units, what of them is there, the index and the
statistics after the last. What the samples hold is made in generator.py."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from adhmr.atomic_file import write_atomically
from adhmr.config.generation import GenerateSet, GenerateStage
from adhmr.data.claim import claim_folder
from adhmr.data.index import canonical_json
from adhmr.data.index_build import shard_index, write_index
from adhmr.data.shard_index import ShardIndex
from adhmr.data.shard_reader import ShardReader
from adhmr.data.shard_writer import OpenShard, ShardSample, shard_name
from adhmr.preference.in_order import in_order
from adhmr.preference.ledger import FileNote, Ledger
from adhmr.preference.progress import LEDGERS
from adhmr.preference.statistics import STATISTICS_NAME, pair_statistics
from adhmr.preference.worker import Work, writing

REQUEST_NAME = "generation.json"  # what the shards of a folder depend on


#: Called once, on another thread than the device's: samples by ranking.
Batch = Callable[[], dict[str, list[ShardSample]]]


class Samples(Protocol):
    """What makes the samples of some rows: adhmr.preference.generator.Generator."""

    config: GenerateStage
    provenance: dict[str, Any]  # what they depend on beside the settings of the stage

    def batches(self, reader: ShardReader, rows: range, rankings: list[str]) -> Iterator[Batch]:
        """Batch by batch, when the device has been given its part."""


class PreferenceSet:
    """The preference folders of one data set, one a ranking: output/<set>-<ranking>/, and how they are made.

    Raises AdhmrError: a folder holds shards that were made with other models or settings.
    """

    def __init__(self, generator: Samples, chosen: GenerateSet):
        config = generator.config
        self._generator, self._output, self._rankings = generator, config.output, chosen.rankings
        self._reader = ShardReader(chosen.path)
        self._folders = [config.output / f"{self._reader.name}-{ranking}" for ranking in chosen.rankings]
        self._rows = range(0, len(self._reader), chosen.stride)[: chosen.limit]
        settings = config.model_dump(mode="json", include={"crop", "unit"})
        which = {"data": self._reader.index.fingerprint, "images": len(self._rows), "stride": chosen.stride}
        request = {**generator.provenance, **settings, **which}
        for folder in self._folders:
            claim_folder(folder, REQUEST_NAME, request)
        self.units = [self._rows[start : start + config.unit] for start in range(0, len(self._rows), config.unit)]
        # Marks of another request, left behind by folders that were deleted, are not of this ledger.
        digest = hashlib.sha256(canonical_json(request)).hexdigest()[:8]
        self.name = "-".join([self._reader.name, *chosen.rankings, digest])

    def works(self, worker: str) -> list[Work]:
        """The shards, and after them what makes data sets of the folders."""
        config, folder = self._generator.config, self._output / LEDGERS / self.name
        common = (self._output, worker, config.ledger.lease_seconds, config.ledger.attempts)
        shards = Ledger(folder, [f"{number:06d}" for number in range(len(self.units))], *common)
        closing = Ledger(folder / "closing", ["index"], *common)
        return [Work(shards, self._make_shards), Work(closing, self._close, after=shards)]

    def _make_shards(self, unit: str, pause: Callable[[], None]) -> list[FileNote]:
        paths = [folder / shard_name(int(unit)) for folder in self._folders]
        if all(path.exists() for path in paths):  # their worker was killed before it marked them
            return [self._note(shard_index(path), path) for path in paths]
        shards: list[OpenShard] = []
        try:
            with writing(self._output):
                for path in paths:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    shards.append(OpenShard(path))

            def write(batch: Batch) -> None:
                samples = batch()
                for shard, ranking in zip(shards, self._rankings, strict=True):
                    for sample in samples[ranking]:
                        with writing(self._output):
                            shard.add(sample)

            def sampled() -> Iterator[Batch]:
                for batch in self._generator.batches(self._reader, self.units[int(unit)], self._rankings):
                    pause()
                    yield batch

            with closing(sampled()) as batches, closing(in_order(write, batches, threads=1, ahead=1)) as written:
                for _ in written:
                    pass
            with writing(self._output):
                return [self._note(shard.finish(), path) for shard, path in zip(shards, paths, strict=True)]
        except BaseException:
            for shard in shards:
                shard.abandon()
            raise

    def _note(self, index: ShardIndex, path: Path) -> FileNote:
        return FileNote(str(path.relative_to(self._output)), index.size, index.sha256)

    def _close(self, unit: str, pause: Callable[[], None]) -> list[FileNote]:
        files = []
        index = self._reader.index
        for folder, ranking in zip(self._folders, self._rankings, strict=True):
            with writing(self._output):
                source = f"preferences of {index.source} ranked by {ranking}"
                files.append(write_index(folder, source=source, split=index.split, licence=index.licence))
            pause()
            figures = pair_statistics(folder, pause)
            with writing(self._output):
                write_atomically(folder / STATISTICS_NAME, json.dumps(figures, indent=1))
            files.append(folder / STATISTICS_NAME)
            print(f"{folder.name}: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items()), flush=True)
        contents = {path: path.read_bytes() for path in files}
        return [
            FileNote(str(path.relative_to(self._output)), len(content), hashlib.sha256(content).hexdigest())
            for path, content in contents.items()
        ]
