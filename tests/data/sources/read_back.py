"""What converted people are held against: the labels that they were made with, and the person that was rendered."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import torch

from adhmr.body.body_model import BodyModel
from adhmr.config.data import CropConfig
from adhmr.data.randomness import RandomKey
from adhmr.data.schema import RawSample
from adhmr.data.shard_reader import ShardReader
from adhmr.data.sources.bodies import BodyFiles
from adhmr.data.sources.context_crop import ContextCrop
from adhmr.data.sources.convert import convert
from adhmr.data.sources.source import Release
from adhmr.data.transforms import PersonCrop
from tests.data.sources.made_people import MadePerson

PERSON = 65  # people are lighter than this even where no light falls, what is behind them darker
OUTSIDE = 20  # darker than what is behind people: where the photograph ends
MILLIMETRE = 1e-3


def converted(name: str, root: Path, split: str, output: Path, bodies: BodyFiles | None = None) -> list[str]:
    """A conversion in this process; what it says."""
    return convert(name, Release(root, split), output, bodies or BodyFiles(), ContextCrop(), processes=1)


def rejected(output: Path) -> dict[str, int]:
    """How many people were left out for which reason."""
    return json.loads((output / "report.json").read_text())["rejected"]


def samples_of(folder: Path) -> list[RawSample]:
    reader = ShardReader(folder)
    return [reader.read(row) for row in range(len(reader))]


def assert_labels(sample: RawSample, made: MadePerson, same_body: bool = True, shape: bool = True) -> None:
    """Everything known of the person, to the millimetre. `same_body`: the labels' body is the one that was posed, its
    shape was not fitted and its hands are known. `shape`: it counts; not so of a gender whose body was not given."""
    record = sample.record
    assert record["has_pose"] and record["has_depth"] and record["has_twists"] and record["has_betas"] == shape
    assert np.abs(record["joints29"] - made.joints29).max() < MILLIMETRE
    assert np.abs(record["transl"] - made.transl).max() < (MILLIMETRE if same_body else 10 * MILLIMETRE)
    assert np.abs(record["pose"] - made.pose).max() < 1e-4
    if same_body:
        assert np.abs(record["betas"] - made.betas).max() < 1e-4
    else:
        body = BodyModel()
        rest = body.rest_joints29(torch.from_numpy(np.stack([record["betas"], made.betas])))
        rest = rest - rest[:, :1]
        assert (rest[0] - rest[1]).norm(dim=-1).mean() < 5 * MILLIMETRE
    known = record["twists_conf"] > 0
    assert known.sum() == (23 if same_body else 21)
    assert np.abs(record["twists"] - made.twists)[known].max() < 1e-3
    assert_consistent(record)


def assert_consistent(record: np.void) -> None:
    """Joints in metres project onto the joints in pixels of the crop."""
    known = record["joints_conf"] > 0
    points = record["joints29"].astype(np.float64) @ record["intrinsics"].astype(np.float64).T
    apart = np.linalg.norm(points[:, :2] / points[:, 2:] - record["joints29_px"], axis=-1)
    assert known.sum() >= 24 and apart[known].max() < 0.1


def assert_on_person(sample: RawSample, size: int = 256) -> None:
    """Through the network's crop: all known joints lie on somebody who was rendered, and on the stored crop too."""
    _assert_inside(sample.image, sample.record["joints29_px"], sample.record["joints_conf"])
    crop = PersonCrop(CropConfig(size=size), None)(sample, RandomKey(0, 0))
    image = np.ascontiguousarray(crop["image"].transpose(1, 2, 0))
    _assert_inside(image, crop["uvd"][:, :2], crop["uvd_weight"][:, 0])


def _assert_inside(image: np.ndarray, points: np.ndarray, confidence: np.ndarray) -> None:
    mask = cv2.dilate((image.max(-1) > PERSON).astype(np.uint8), np.ones((5, 5), np.uint8))
    where = np.floor(points).astype(int)
    height, width = mask.shape
    known = (confidence > 0) & (where >= 0).all(1) & (where < [width, height]).all(1)
    seen = known.copy()
    seen[known] = image[where[known, 1], where[known, 0]].max(-1) > OUTSIDE
    assert seen.sum() >= 20
    assert mask[where[seen, 1], where[seen, 0]].mean() == 1.0
