"""One shard of a conversion: people labelled, their images read once, crops cut and encoded.

A file that lies beside the shard says that it is done, and what was left out and why."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import simplejpeg
import torch

from adhmr.atomic_file import write_atomically
from adhmr.data.shard_writer import ShardSample, write_shard
from adhmr.data.sources.bodies import BodyFiles
from adhmr.data.sources.context_crop import ContextCrop
from adhmr.data.sources.image_file import ImageFile, image_size
from adhmr.data.sources.labels import Labelled, label_people
from adhmr.data.sources.person import Person
from adhmr.data.sources.source import Rejected

JPEG_QUALITY = 92
SAME_ASPECT = 0.01  # relative: an image of another size but this same shape was resized, and its labels are too


@dataclass(frozen=True)
class ShardJob:
    """What all shards of a conversion share."""

    parts: Path  # folder of the shards while they are made
    image_root: Path
    bodies: BodyFiles
    crop: ContextCrop
    dataset: str


class Clock:
    """Seconds of each part of the work."""

    now = staticmethod(time.perf_counter)

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._last = self.now()

    def lap(self, part: str) -> None:
        now = self.now()
        self.seconds[part] += now - self._last
        self._last = now


def part_paths(parts: Path, number: int) -> tuple[Path, Path]:
    """A shard in the making, and the mark that it is done."""
    return parts / f"{number:06d}.tar", parts / f"{number:06d}.json"


def convert_shard(job: ShardJob, piece: tuple[int, Sequence[Person | Rejected]]) -> dict:
    """Writes shard `number` of some people and its mark, which it returns: samples, rejected (key, reason), seconds."""
    torch.set_num_threads(1)  # other processes have the other cores
    number, people = piece
    clock = Clock()
    people = [_with_size(one, job.image_root) for one in people]
    labelled = label_people(people, job.bodies)
    clock.lap("labels")
    rejected = [one for one in labelled if isinstance(one, Rejected)]
    samples: list[ShardSample] = []
    for group in _of_one_image([one for one in labelled if not isinstance(one, Rejected)]):
        for made in _cut_people(job, group, clock):
            (rejected if isinstance(made, Rejected) else samples).append(made)
    shard, mark = part_paths(job.parts, number)
    if samples:
        write_shard(shard, samples)
    clock.lap("write")
    report = {
        "samples": len(samples),
        "rejected": [[one.key, one.reason] for one in rejected],
        "seconds": {part: round(value, 4) for part, value in clock.seconds.items()},
    }
    write_atomically(mark, json.dumps(report))
    return report


def _with_size(person: Person | Rejected, image_root: Path) -> Person | Rejected:
    """Where neither camera nor size is annotated, the image itself says its size."""
    if isinstance(person, Rejected) or person.size is not None or person.intrinsics is not None:
        return person
    try:
        return replace(person, size=image_size(image_root / person.image, person.span, person.upright))
    except FileNotFoundError:
        return Rejected(person.key, "its image is missing")
    except OSError:
        return Rejected(person.key, "its image cannot be decoded")


def _of_one_image(labelled: Sequence[Labelled]) -> Iterator[list[Labelled]]:
    group: list[Labelled] = []
    for one in labelled:
        if group and (group[-1][0].image, group[-1][0].span) != (one[0].image, one[0].span):
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def _cut_people(job: ShardJob, group: list[Labelled], clock: Clock) -> Iterator[ShardSample | Rejected]:
    """The people of one image."""
    try:
        first = group[0][0]
        file = ImageFile(job.image_root / first.image, first.span, first.upright)
    except FileNotFoundError:
        yield from (Rejected(person.key, "its image is missing") for person, _ in group)
        return
    except (ValueError, OSError):
        yield from (Rejected(person.key, "its image cannot be decoded") for person, _ in group)
        return
    clock.lap("read")
    boxes = []
    for person, record in group:
        resized = _resized(record, person.size, file.size)
        box = "its image has another size than its annotation says"
        if resized is not None:
            box = job.crop.box(resized, file.size)
        if isinstance(box, str):
            yield Rejected(person.key, box)
        else:
            boxes.append((person, resized, box))
    clock.lap("labels")
    if not boxes:
        return
    try:
        image, shrunk = file.pixels(max(job.crop.scale(box[2]) for *_, box in boxes))
    except ValueError:
        yield from (Rejected(person.key, "its image cannot be decoded") for person, *_ in boxes)
        return
    clock.lap("decode")
    for person, record, box in boxes:
        crop = job.crop.cut(image, shrunk, box)
        clock.lap("cut")
        jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(crop), quality=JPEG_QUALITY)
        clock.lap("encode")
        provenance = {
            **person.provenance,
            "source": job.dataset,
            "image": person.image,
            "size": [int(side) for side in file.size],  # height, width of the image as it is on disk
            "group": person.group,
            "box": None if person.box is None else [round(float(value), 2) for value in person.box],
            "affine": job.crop.affine(box).tolist(),  # from pixels of the image to those of the crop
        }
        yield ShardSample(person.key, jpeg, job.crop.moved(record, box), provenance)


def _resized(record: np.void, said: tuple[int, int] | None, found: tuple[int, int]) -> np.void | None:
    """The record in pixels of the image as it is, where the annotation is for one of another size and the same shape;
    None where it is for another shape."""
    if said is None or tuple(said) == tuple(found):
        return record
    scale = np.array([found[1] / said[1], found[0] / said[0]])  # x, y
    if abs(scale[0] / scale[1] - 1) > SAME_ASPECT:
        return None
    resized = record.copy()
    resized["joints29_px"] = record["joints29_px"] * scale
    resized["intrinsics"] = np.diag([*scale, 1.0]) @ record["intrinsics"]
    return resized
