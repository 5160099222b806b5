"""Speed of `adhmr data convert`: people a second and core of a conversion of large photographs, where the time goes,
and its share of the limit that JPEG sets: reading the files, decoding and encoding the same images and crops alone.

    PYTHONPATH=. python tools/benchmark/conversion.py [--photographs 60 --rounds 5 --folder F]

Seconds are the process's own time, so that neighbours on the machine disturb little. The release is made up: rendered
people of the open body in photographs of 1080 x 1920 pixels, as a HumanData file."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from pathlib import Path
from statistics import median
from tempfile import gettempdir

import cv2
import numpy as np
import simplejpeg
import torch

from adhmr.data.shard_reader import ShardReader
from adhmr.data.sources.bodies import BodyFiles
from adhmr.data.sources.context_crop import ContextCrop
from adhmr.data.sources.convert import REPORT_NAME, convert
from adhmr.data.sources.convert_shard import JPEG_QUALITY, Clock
from adhmr.data.sources.image_file import ImageFile
from adhmr.data.sources.source import Release
from tests.data.sources.made_human_data import Row, write_human_data
from tests.data.sources.made_people import photographs

SIZE = (1080, 1920)
GRAIN = 4.0  # deviation of the noise on the photographs: rendered flat colours would be cheaper than any photograph
DIFFERENT = 6  # photographs that are rendered; the others repeat them under other names
GOAL = 0.7


def make_release(root: Path, count: int, people: int) -> int:
    """A release of `count` photographs; returns how many people it has."""
    shutil.rmtree(root, ignore_errors=True)
    rng = np.random.default_rng(0)
    made = photographs(DIFFERENT, people, SIZE)
    for photo in made:
        noise = cv2.GaussianBlur(rng.normal(0, 3 * GRAIN, photo.image.shape).astype(np.float32), (3, 3), 0)
        photo.image = np.clip(photo.image + noise, 0, 255).astype(np.uint8)
    rows = []
    for number in range(count):
        name, photo = f"seq/{number:06d}.jpg", made[number % DIFFERENT]
        photo.save(root / name)
        rows += [Row(name, photo, person) for person in photo.people]
    write_human_data(root / "people.npz", rows, "smpl")
    return len(rows)


def run(root: Path) -> dict:
    """The report of one conversion in this process."""
    shutil.rmtree(root / "out", ignore_errors=True)
    release = Release(root, "all", file=root / "people.npz")
    convert("human-data", release, root / "out", BodyFiles(), ContextCrop(), processes=1)
    return json.loads((root / "out" / REPORT_NAME).read_text())


def jpeg_alone(root: Path) -> float:
    """Seconds of a conversion that only reads, decodes as a conversion does, and encodes the crops that it made."""
    reader = ShardReader(root / "out")
    samples = [reader.read(row) for row in range(len(reader))]
    scales: dict[str, float] = {}
    for sample in samples:
        provenance = sample.provenance
        scale = provenance["affine"][0][0]
        scales[provenance["image"]] = max(scales.get(provenance["image"], 0.0), scale)
    begin = time.process_time()
    for name, scale in scales.items():
        ImageFile(root / name).pixels(scale)
    for sample in samples:
        simplejpeg.encode_jpeg(sample.image, quality=JPEG_QUALITY)
    return time.process_time() - begin


def measure(root: Path, count: int, people: int, rounds: int) -> dict:
    number = make_release(root, count, people)
    run(root), jpeg_alone(root)  # fills caches
    reports, limits, parts = [], [], []
    for _ in range(rounds):
        report = run(root)
        alone = jpeg_alone(root)
        work = sum(report["seconds"].values())
        reports.append(number / work)
        limits.append(number / alone)
        parts.append({part: value / work for part, value in report["seconds"].items()})
    return {
        "people": number,
        "people an image": people,
        "bytes an image": round(np.mean([path.stat().st_size for path in root.glob("seq/*.jpg")])),
        "samples/s": round(median(reports)),
        "range": [round(min(reports)), round(max(reports))],
        "decoding and encoding alone, samples/s": round(median(limits)),
        "share of the limit": round(median(a / b for a, b in zip(reports, limits)), 3),
        "parts": {part: round(median(one[part] for one in parts), 3) for part in parts[0]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(gettempdir()) / "adhmr-conversion")
    parser.add_argument("--photographs", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    Clock.now = time.process_time
    load = os.getloadavg()[0]
    figures = {
        f"{people} an image": measure(options.folder, options.photographs, people, options.rounds) for people in (1, 2)
    }
    for name, found in figures.items():
        print(f"{name}: {found}")
    shares = [found["share of the limit"] for found in figures.values()]
    print(
        json.dumps(
            {"benchmark": "conversion", "load_before": round(load, 2), **figures, "reached": min(shares) >= GOAL}
        )
    )


if __name__ == "__main__":
    main()
