"""Round trips: what is exported is converted back into the same labels, from crops and from the owners' images; and
the layouts that the programs which read such files count on."""

import json
from pathlib import Path

import numpy as np
import pytest

from adhmr.cleaning.export import export
from adhmr.data.schema import decode_record
from adhmr.data.shard_reader import ShardReader
from adhmr.data.shard_writer import ShardWriter
from adhmr.data.sources.bodies import BodyFiles
from adhmr.data.sources.context_crop import ContextCrop
from adhmr.data.sources.convert import convert
from adhmr.data.sources.source import Release
from adhmr.errors import AdhmrError
from tests.data.sources.made_human_data import Row, write_human_data
from tests.data.sources.made_people import open_body_as_smplx, photographs

MILLIMETRE = 1e-3


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    """A made-up HumanData release: root with made.npz and images/, two people a photograph."""
    root = tmp_path_factory.mktemp("release")
    rows = []
    for n, picture in enumerate(photographs(3, 2)):
        picture.save(root / f"images/{n}.jpg")
        rows += [Row(f"images/{n}.jpg", picture, person) for person in picture.people]
    write_human_data(root / "made.npz", rows, "smpl")
    return root


@pytest.fixture(scope="module")
def converted(release, tmp_path_factory) -> Path:
    return again("human-data", release, tmp_path_factory.mktemp("converted") / "made", file=release / "made.npz")


def again(name: str, root: Path, output: Path, file: Path | None = None, bodies: BodyFiles | None = None) -> Path:
    split = "all" if name == "human-data" else "train"
    convert(name, Release(root, split, file=file), output, bodies or BodyFiles(), ContextCrop(), processes=1)
    return output


def records_of(folder: Path) -> np.ndarray:
    reader = ShardReader(folder)
    return np.array([reader.read_record(row) for row in range(len(reader))])


def assert_same_labels(folder: Path, expected: Path, fitted: bool = False) -> None:
    """fitted: the labels were another body's in between."""
    ours, theirs = records_of(folder), records_of(expected)
    assert len(ours) == len(theirs)
    np.testing.assert_allclose(ours["joints29"], theirs["joints29"], atol=(15 if fitted else 0.01) * MILLIMETRE)
    np.testing.assert_allclose(ours["pose"][:, :22], theirs["pose"][:, :22], atol=1e-5)
    for flag in ("has_pose", "has_depth", "has_betas", "has_twists"):
        assert (ours[flag] == theirs[flag]).all()
    if not fitted:
        for name in ("pose", "betas", "transl", "joints_conf"):
            np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5)
    for record in ours:
        points = record["joints29"].astype(np.float64) @ record["intrinsics"].astype(np.float64).T
        assert np.abs(points[:, :2] / points[:, 2:] - record["joints29_px"]).max() < 0.1


# ------------------------------------------------------------------------------------------------ from crops
def test_crops_as_human_data_convert_back(studio_set, tmp_path):
    lines = export(studio_set, "human-data", tmp_path / "out", images=True)
    assert lines[0].startswith("10 labels of") and "--root" in lines[-1]
    file = tmp_path / "out" / "studio.npz"
    assert_same_labels(again("human-data", tmp_path / "out/images", tmp_path / "back", file=file), studio_set)
    with np.load(file, allow_pickle=True) as content:
        assert content["keypoints2d_smpl"].shape == (10, 28, 3) and content["keypoints2d_smpl_mask"].sum() == 28
        assert content["keypoints3d_smpl"].shape == (10, 28, 4) and bool(content["__keypoints_compressed__"])
        assert content["bbox_xywh"].shape == (10, 5) and (content["bbox_xywh"][:, 2:4] > 0).all()
        assert content["smpl"].item()["body_pose"].shape == (10, 23, 3)
        assert content["misc"].item()["adhmr_key"] == ShardReader(studio_set).index.keys
        # A joint's pixels are where its metres are seen.
        meta, points = content["meta"].item(), content["keypoints3d_smpl"][..., :3]
        seen = points[..., :2] / points[..., 2:] * meta["focal_length"][:, None] + meta["principal_point"][:, None]
        np.testing.assert_allclose(content["keypoints2d_smpl"][..., :2], seen, atol=0.05)
    reader = ShardReader(studio_set)
    for row, key in enumerate(reader.index.keys):
        assert (tmp_path / f"out/images/{key}.jpg").read_bytes() == reader.read_members(row)["jpg"]


def test_crops_as_coco_convert_back(studio_set, tmp_path):
    export(studio_set, "coco", tmp_path / "out", images=True)
    assert_same_labels(again("coco-neuralannot", tmp_path / "out", tmp_path / "back"), studio_set)
    content = json.loads((tmp_path / "out/annotations/coco_wholebody_train_v1.0.json").read_text())
    fits = json.loads((tmp_path / "out/annotations/MSCOCO_train_SMPL_NeuralAnnot.json").read_text())
    assert [str(one["id"]) for one in content["annotations"]] == list(fits) and len(content["images"]) == 10
    one = content["annotations"][0]
    assert len(one["keypoints"]) == 51 and len(one["face_kpts"]) == 204 and one["num_keypoints"] == 12
    assert one["lefthand_valid"] is False and one["bbox"][2] > 0
    assert len(fits["1"]["smpl_param"]["pose"]) == 72


def test_coco_with_fits_of_smplx(studio_set, tmp_path):
    smplx = open_body_as_smplx(tmp_path / "SMPLX_NEUTRAL.npz")
    lines = export(studio_set, "coco", tmp_path / "out", images=True, smplx=smplx)
    assert "--smplx neutral=" in lines[-1]
    bodies = BodyFiles(smplx={"neutral": smplx})
    back = again("coco-neuralannot", tmp_path / "out", tmp_path / "back", bodies=bodies)
    joints = np.abs(records_of(back)["joints29"] - records_of(studio_set)["joints29"])[:, :22]
    assert joints.max() < 15 * MILLIMETRE  # shapes were fitted twice; hands are not known to SMPL-X
    np.testing.assert_allclose(records_of(back)["pose"][:, :22], records_of(studio_set)["pose"][:, :22], atol=1e-5)


# ------------------------------------------------------------------------------------------------ in the owners' images
def test_labels_return_to_the_images_that_they_came_from(release, converted, tmp_path):
    export(converted, "human-data", tmp_path / "out")
    back = again("human-data", release, tmp_path / "back", file=tmp_path / "out/made.npz")
    assert_same_labels(back, converted)
    ours, theirs = ShardReader(back), ShardReader(converted)
    for row in range(len(theirs)):
        one, two = ours.read(row), theirs.read(row)
        assert one.provenance["image"] == two.provenance["image"] and one.provenance["size"] == [480, 640]
        np.testing.assert_allclose(one.provenance["affine"], two.provenance["affine"])
        assert (one.image == two.image).all()
    assert not (tmp_path / "out/images").exists()


def test_numbers_of_annotations_stay(release, converted, tmp_path):
    def numbered(row: int, origin: dict) -> dict:
        return origin | {"annotation": 500 - row}

    export(changed(converted, tmp_path / "numbered", numbered), "coco", tmp_path / "out")
    content = json.loads((tmp_path / "out/annotations/coco_wholebody_train_v1.0.json").read_text())
    assert [one["id"] for one in content["annotations"]] == [500, 499, 498, 497, 496, 495]
    assert [one["image_id"] for one in content["annotations"]] == [1, 1, 2, 2, 3, 3]
    assert [one["file_name"] for one in content["images"]] == [f"images/{n}.jpg" for n in range(3)]
    (tmp_path / "out/images").mkdir()
    (tmp_path / "out/images/train2017").symlink_to(release)
    back = again("coco-neuralannot", tmp_path / "out", tmp_path / "back")
    made = {sample["annotation"]: sample for sample in map(provenance, ShardReader(back).index.keys, [back] * 6)}
    assert made.keys() == {500, 499, 498, 497, 496, 495}


def provenance(key: str, folder: Path) -> dict:
    reader = ShardReader(folder)
    return reader.read(reader.index.keys.index(key)).provenance


def changed(source: Path, folder: Path, change, edit=lambda record: None) -> Path:
    """The set with each sample's provenance as `change` gives it, and its record edited."""
    reader = ShardReader(source)
    with ShardWriter(folder, source="copy", split="train", licence="none", samples_per_shard=4) as writer:
        for row, key in enumerate(reader.index.keys):
            members = reader.read_members(row)
            record = decode_record(members["npy"])
            edit(record)
            writer.write(key, members["jpg"], record, change(row, json.loads(members["json"])))
    return folder


# ------------------------------------------------------------------------------------------------ what cannot be
def test_what_cannot_be_exported_is_said(studio_set, converted, tmp_path):
    with pytest.raises(AdhmrError, match="was not cut from an image file of its own; give --images"):
        export(studio_set, "human-data", tmp_path / "a")
    old = changed(converted, tmp_path / "old", lambda _, origin: {k: v for k, v in origin.items() if k != "size"})
    with pytest.raises(AdhmrError, match="its provenance has no 'size' of the image; convert the set again"):
        export(old, "human-data", tmp_path / "b")
    bare = changed(
        converted, tmp_path / "bare", lambda _, origin: origin, lambda record: record.__setitem__("has_pose", 0)
    )
    with pytest.raises(AdhmrError, match="its label has no pose, which these formats need"):
        export(bare, "coco", tmp_path / "c", images=True)
    with pytest.raises(AdhmrError, match="--smplx is for --format coco"):
        export(converted, "human-data", tmp_path / "d", smplx=tmp_path / "SMPLX.npz")
