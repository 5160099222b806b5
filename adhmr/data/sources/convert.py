"""`adhmr data convert`: a release becomes a data set folder, on several processes, with progress, a report of what was
left out, and a contact sheet. A rerun goes on after the shards that are there."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from adhmr.atomic_file import write_atomically
from adhmr.data.claim import claim_folder
from adhmr.data.contact_sheet import contact_sheet
from adhmr.data.index import INDEX_NAME
from adhmr.data.index_build import write_index
from adhmr.data.schema import SCHEMA_VERSION
from adhmr.data.shard_index import sidecar_path
from adhmr.data.shard_pool import over_shards
from adhmr.data.shard_writer import shard_name
from adhmr.data.sources.bodies import BodyFiles
from adhmr.data.sources.context_crop import ContextCrop
from adhmr.data.sources.convert_shard import ShardJob, convert_shard, part_paths
from adhmr.data.sources.held_out import HeldOut, PartOfSource
from adhmr.data.sources.person import MeshLabel, Person, SmplxLabel
from adhmr.data.sources.registry import source_class
from adhmr.data.sources.source import Rejected, Release, Source
from adhmr.errors import AdhmrError

REQUEST_NAME, REPORT_NAME, REJECTED_NAME = "conversion.json", "report.json", "rejected.txt"
SHEET_NAME = "contact_sheet.jpg"
PARTS = "parts"
PEOPLE_A_SHARD = 1000
CHECKED = 20  # people whose bodies are opened before anything is written
SHEET_SAMPLES = 48
MANY = 0.2  # share of rejected people that deserves a look


def open_source(name: str, release: Release) -> Source:
    """Raises AdhmrError for an unknown name or split, and as the source does."""
    kind = source_class(name)
    if not release.root.is_dir():
        raise AdhmrError(f"--root {release.root}: no such folder")
    if release.file is not None and not release.file.is_file():
        raise AdhmrError(f"--file {release.file}: no such file")
    if release.split not in kind.splits:
        raise AdhmrError(f"{name} has no split '{release.split}'; expected {', '.join(kind.splits)}")
    return kind(release)


def convert(
    name: str,
    release: Release,
    output: Path,
    bodies: BodyFiles,
    crop: ContextCrop,
    processes: int = 2,
    limit: int | None = None,
    held_out: HeldOut | None = None,
) -> list[str]:
    """Converts and returns what there is to say, in lines.

    Raises AdhmrError: what `open_source` raises, a folder that holds another conversion, or not one usable person.
    """
    source, split = open_source(name, release), release.split
    if held_out is not None:
        source, split = PartOfSource(source, held_out), f"{release.split}-{held_out.part}"
    count = len(source) if limit is None else min(limit, len(source))
    if count == 0:
        raise AdhmrError(f"{release.root}: the annotations of {name}, split {split}, hold nobody")
    files = {os.path.relpath(path, release.root): path.stat().st_size for path in source.files()}
    request = {
        "source": name,
        "split": split,
        "held_out": None if held_out is None else held_out.share,
        "stride": release.stride,
        "people": count,
        "files": files,
        "bodies": bodies.hashes(),
        "side": crop.side,
        "context": crop.context,
        "schema": SCHEMA_VERSION,
    }
    _check_bodies(source, count, bodies)  # before the folder is claimed: with another file it is another conversion
    claim_folder(output, REQUEST_NAME, request)
    if not (output / INDEX_NAME).exists():
        job = ShardJob(output / PARTS, source.image_root, bodies, crop, f"{source.name}-{split}")
        _convert_parts(source, count, job, processes)
        _gather(output, -(-count // PEOPLE_A_SHARD))
        write_index(output, source=source.name, split=split, licence=source.licence)
    shutil.rmtree(output / PARTS, ignore_errors=True)
    if not (output / SHEET_NAME).exists():
        contact_sheet(output, SHEET_SAMPLES, output / SHEET_NAME)
    return _lines(output)


def _check_bodies(source: Source, count: int, bodies: BodyFiles) -> None:
    """Raises AdhmrError when the first people need a body file that was not given."""
    for one in source.people(range(min(count, CHECKED))):
        if not isinstance(one, Rejected) and isinstance(one.body, SmplxLabel | MeshLabel):
            bodies.smplx_of(one.body.gender)


class _Pieces(Sequence):
    """The people of each shard that is not done, made when they are asked for."""

    def __init__(self, source: Source, count: int, numbers: list[int]) -> None:
        self._source, self._count, self._numbers = source, count, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, at: int) -> tuple[int, list[Person | Rejected]]:
        first = self._numbers[at] * PEOPLE_A_SHARD
        return self._numbers[at], self._source.people(range(first, min(first + PEOPLE_A_SHARD, self._count)))


def _convert_parts(source: Source, count: int, job: ShardJob, processes: int) -> None:
    job.parts.mkdir(parents=True, exist_ok=True)
    shards = range(-(-count // PEOPLE_A_SHARD))
    missing = [number for number in shards if not part_paths(job.parts, number)[1].exists()]
    for report in over_shards(convert_shard, job, _Pieces(source, count, missing), processes, f"convert {job.dataset}"):
        if report["samples"] == 0 and all(reason == "its image is missing" for _, reason in report["rejected"]):
            key = report["rejected"][0][0]
            raise AdhmrError(f"{job.image_root}: not one image of a whole shard is there (the first: that of {key})")


def _gather(output: Path, shards: int) -> None:
    """Shards that hold somebody move to their final, gapless names, and the report is written. May be repeated."""
    reports = [json.loads(part_paths(output / PARTS, number)[1].read_text()) for number in range(shards)]
    final = 0
    for number, report in enumerate(reports):
        part, _ = part_paths(output / PARTS, number)
        if not report["samples"]:
            continue
        target = output / shard_name(final)
        for path, place in ((sidecar_path(part), sidecar_path(target)), (part, target)):
            if path.exists():
                os.replace(path, place)
        final += 1
    rejected = [(key, reason) for report in reports for key, reason in report["rejected"]]
    samples = sum(report["samples"] for report in reports)
    seconds = Counter()
    for report in reports:
        seconds.update(report["seconds"])
    figures = {
        "people": samples + len(rejected),
        "converted": samples,
        "rejected": dict(Counter(reason for _, reason in rejected).most_common()),
        "seconds": {part: round(value, 2) for part, value in seconds.items()},
    }
    write_atomically(output / REPORT_NAME, json.dumps(figures, indent=1) + "\n")
    write_atomically(output / REJECTED_NAME, "".join(f"{key}\t{reason}\n" for key, reason in rejected))
    if not samples:
        reasons = ", ".join(f"{reason}: {number}" for reason, number in figures["rejected"].items())
        raise AdhmrError(f"{output}: of {len(rejected)} people not one could be converted ({reasons})")


def _lines(output: Path) -> list[str]:
    figures = json.loads((output / REPORT_NAME).read_text())
    lines = [f"{output}: {figures['converted']:,} of {figures['people']:,} people"]
    lines += [f"  left out, {reason}: {number:,}" for reason, number in figures["rejected"].items()]
    if sum(figures["rejected"].values()) > MANY * figures["people"]:
        lines.append(f"more than {MANY:.0%} were left out: look at {output / REJECTED_NAME} before you train on it")
    total = sum(figures["seconds"].values())
    if total:
        parts = ", ".join(f"{part} {value / total:.0%}" for part, value in figures["seconds"].items())
        lines.append(f"{figures['converted'] / total:.0f} samples/s a core ({parts})")
    return [*lines, f"look at {output / SHEET_NAME}"]
