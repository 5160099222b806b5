"""Images without labels: from a folder and boxes to shards, crops, filters and pairs ranked by a scorer."""

from __future__ import annotations

import csv
import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adhmr.config.alignment import DpoStage
from adhmr.config.data import CropConfig, FilterConfig
from adhmr.config.generation import GenerateStage
from adhmr.data.filters import box_side, build_filter
from adhmr.data.randomness import RandomKey
from adhmr.data.schema import boxed_points, mirror
from adhmr.data.shard_reader import ShardReader
from adhmr.data.sources.bodies import BodyFiles
from adhmr.data.sources.context_crop import ContextCrop
from adhmr.data.sources.convert import convert
from adhmr.data.sources.source import Release
from adhmr.data.transforms import LabelledCrop, PersonCrop
from adhmr.data.verify import verify
from adhmr.errors import AdhmrError
from adhmr.preference.generate import run_stage
from adhmr.training.tasks.pairs import PairTransform
from tests.data.sources.made_people import MadePerson, Photograph, photographs
from tests.data.sources.read_back import samples_of
from tests.tiny import CROP


@lru_cache
def pairs() -> list[Photograph]:
    return photographs(3, 2, (240, 320), seed=7)


NAMES = ("street/0.jpg", "street/1.jpg", "alone.png")


def outline(person: MadePerson) -> list[float]:
    """x0, y0, x1, y1 of the person as a detector gives it: somewhat larger than that of the joints."""
    body = person.joints29_px[:24]
    low, high = body.min(0), body.max(0)
    centre, half = (low + high) / 2, (high - low) / 2 * 1.16
    return [*(centre - half).tolist(), *(centre + half).tolist()]


def write_images(root: Path, boxes: Path) -> Path:
    for name, picture in zip(NAMES, pairs(), strict=True):
        picture.save(root / name)
    with boxes.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "x0", "y0", "x1", "y1"])
        for name, picture in zip(NAMES, pairs(), strict=True):
            rows.writerows([name, *outline(person)] for person in picture.people)
    return root


def converted(root: Path, boxes: Path | None) -> Path:
    output = root.parent / f"{root.name}-out{'' if boxes is None else '-boxes'}"
    convert("images", Release(root, "all", file=boxes), output, BodyFiles(), ContextCrop(), processes=1)
    return output


@pytest.fixture(scope="module")
def wild(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wild")
    return converted(write_images(folder / "images", folder / "boxes.csv"), folder / "boxes.csv")


def test_boxes_become_the_boxes_of_joints(wild):
    samples, people = samples_of(wild), [one for p in (pairs()[2], *pairs()[:2]) for one in p.people]
    assert len(samples) == 6 and verify(wild) == []
    assert [one.provenance["group"] for one in samples] == ["alone.png"] * 2 + ["street"] * 4
    for sample, made in zip(samples, people, strict=True):
        record = sample.record
        assert not record["joints_conf"].any() and not any(record[f"has_{part}"] for part in ("pose", "depth", "betas"))
        affine = np.array(sample.provenance["affine"])
        pixels = made.joints29_px[:24] @ affine[:, :2].T + affine[:, 2]
        corners = boxed_points(record)
        np.testing.assert_allclose(corners, [pixels.min(0), pixels.max(0)], atol=0.02)
        assert box_side(record) == pytest.approx(np.ptp(pixels, axis=0).max(), abs=0.05)
        np.testing.assert_allclose(record["intrinsics"][0, 0], 400 * affine[0, 0], rtol=1e-5)  # the diagonal
        # The network's crop is the one that the joints would have given, flipped or not.
        item = PersonCrop(CropConfig(size=128), None)(sample, RandomKey(0, 0))
        assert not item["uvd"].any() and not item["uvd_weight"].any() and item["image"].shape == (3, 128, 128)
        middle = item["affine"][:, :2] @ ((pixels.min(0) + pixels.max(0)) / 2) + item["affine"][:, 2]
        np.testing.assert_allclose(middle, 64, atol=0.05)
        flipped = boxed_points(mirror(record))
        np.testing.assert_allclose(sorted(flipped[:, 0]), sorted(record["image_size"][1] - corners[:, 0]), atol=1e-3)
        with pytest.raises(AdhmrError, match="no pose and no betas"):
            LabelledCrop(CropConfig(size=128), None)(sample, RandomKey(0, 0))


def test_an_image_without_boxes_is_one_person(tmp_path):
    root = write_images(tmp_path / "images", tmp_path / "boxes.csv")
    samples = samples_of(converted(root, None))
    assert len(samples) == 3
    for sample in samples:
        corners = boxed_points(sample.record) / np.array(sample.provenance["affine"])[0, 0]
        np.testing.assert_allclose(np.ptp(corners, axis=0) * 1.16, [320, 240], rtol=1e-4)


def test_images_are_turned_as_their_exif_says(tmp_path):
    picture, root = pairs()[0], tmp_path / "images"
    root.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(np.rot90(picture.image).copy()).save(root / "a.jpg", exif=exif, quality=95)
    picture.save(root / "b.jpg")
    turned, upright = samples_of(converted(root, None))
    assert turned.image.shape == upright.image.shape
    assert np.abs(turned.image.astype(int) - upright.image).mean() < 3


def test_boxes_that_are_not_right(tmp_path):
    root = write_images(tmp_path / "images", tmp_path / "boxes.csv")
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({"0.jpg": [[10, 10, 90, 90]]}))
    with pytest.raises(AdhmrError, match=r"boxes of 0\.jpg .*names are paths from there"):
        converted(root, boxes)
    (root / "street/1.jpg").write_bytes(b"\xff\xd8\xff nothing")
    people = [[400, 10, 500, 90], outline(pairs()[0].people[0])]
    boxes.write_text(json.dumps({"street/0.jpg": people, "street/1.jpg": [[0, 0, 9, 9]]}))
    output = converted(root, boxes)
    assert len(ShardReader(output)) == 1
    rejected = json.loads((output / "report.json").read_text())["rejected"]
    assert rejected == {"its box is not in the picture": 1, "its image cannot be decoded": 1}
    with pytest.raises(AdhmrError, match="holds no image"):
        (tmp_path / "empty").mkdir()
        converted(tmp_path / "empty", None)


def test_pairs_of_unlabelled_people_ranked_by_a_scorer(wild, tiny_weights, tmp_path):
    weights = {"base": tiny_weights / "base.safetensors", "scorer": tiny_weights / "scorer.safetensors"}
    values = {"stage": "generate", "output": tmp_path / "pairs", "crop": CROP, "hypotheses": 6, "pairs": 2, **weights}
    run_stage(GenerateStage(**values, sets=[{"path": wild, "rankings": ["scorer", "joints2d"]}]))
    (folder,) = (path for path in (tmp_path / "pairs").iterdir() if path.name.endswith("-scorer"))
    made = samples_of(folder)
    assert len(made) == 6
    for sample in made:
        pairs_of = sample.extras["pairs.npy"]
        assert len(pairs_of) == 2 and np.isfinite(pairs_of["winner_uvd"]).all()
        assert (pairs_of["winner_value"] >= pairs_of["loser_value"]).all() and np.isnan(pairs_of["winner_error"]).all()

    values = {"stage": "dpo", "output": tmp_path / "dpo", "base": weights["base"], "preferences": [{"path": folder}]}
    values |= {"train": {"steps": 1, "global_batch": 2}, "optim": {"lr": 1e-4}}
    full, labels = (DpoStage(**values, mask=mask) for mask in ("full", "labels"))
    item = PairTransform(full, CROP["size"], True)(made[0], RandomKey(0, 0))
    assert item["weight"].all()
    with pytest.raises(AdhmrError, match="mask: labels"):
        PairTransform(labels, CROP["size"], True)(made[0], RandomKey(0, 0))


def test_a_filter_by_the_box(wild):
    sides = [box_side(sample.record) for sample in samples_of(wild)]
    index = build_filter(wild, FilterConfig(min_box=float(np.median(sides))))
    assert index.num_samples == 3
