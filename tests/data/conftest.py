"""Small shard folders for the tests of the data package."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from adhmr.body.camera import project
from adhmr.data.schema import new_record
from adhmr.data.shard_writer import ShardWriter

WIDTH, HEIGHT = 96, 80


def person_record(rng: np.random.Generator) -> np.void:
    """A person in front of a camera whose pixels agree with its joints; every label known."""
    record = new_record()
    record["joints29"] = rng.normal([0.1, -0.1, 4.0], 0.4, (29, 3))
    record["intrinsics"] = [[130, 0, WIDTH / 2 - 3], [0, 130, HEIGHT / 2 + 2], [0, 0, 1]]
    record["joints29_px"] = project(record["joints29"], record["intrinsics"])
    record["pose"] = rng.normal(0, 0.3, (24, 3))
    record["betas"] = rng.normal(0, 1, 10)
    record["transl"] = [0.1, -0.1, 4.0]
    angles = rng.uniform(-3, 3, 23)
    record["twists"] = np.stack([np.cos(angles), np.sin(angles)], -1)
    record["joints_conf"], record["twists_conf"] = rng.uniform(0.5, 1, 29), rng.uniform(0.5, 1, 23)
    record["joints17"] = rng.normal([0.1, -0.1, 4.0], 0.4, (17, 3))
    record["image_size"] = (HEIGHT, WIDTH)
    for flag in ("has_pose", "has_depth", "has_betas", "has_twists", "has_joints17"):
        record[flag] = 1
    return record


def make_jpeg(rng: np.random.Generator) -> bytes:
    coarse = rng.integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), np.uint8)
    image = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".jpg", image)[1].tobytes()


def _write_samples(writer: ShardWriter, first: int, stop: int) -> None:
    for number in range(first, stop):
        rng = np.random.default_rng(number)
        writer.write(f"person-{number:05d}", make_jpeg(rng), person_record(rng), {"number": number})


@pytest.fixture
def make_record() -> Callable[[np.random.Generator], np.void]:
    return person_record


@pytest.fixture
def write_samples() -> Callable[[ShardWriter, int, int], None]:
    """write_samples(writer, first, stop) adds samples of an endless source, the same whenever they are written."""
    return _write_samples


@pytest.fixture
def make_set(tmp_path: Path) -> Callable[..., Path]:
    """make_set(name, count, samples_per_shard) writes a shard folder and returns it."""

    def make(name: str = "alpha", count: int = 25, samples_per_shard: int = 10) -> Path:
        folder = tmp_path / name
        with ShardWriter(
            folder, source="test", split="train", licence="CC0", samples_per_shard=samples_per_shard
        ) as writer:
            _write_samples(writer, 0, count)
        return folder

    return make
