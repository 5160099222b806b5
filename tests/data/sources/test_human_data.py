"""HumanData: every data set that comes as such files, converted from its own layout and read back; and what is wrong
with a file or a person."""

from __future__ import annotations

import json
import re
import shutil
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from adhmr.data.sources.bodies import BodyFiles
from adhmr.data.sources.context_crop import ContextCrop
from adhmr.data.sources.convert import convert
from adhmr.data.sources.human_data import KEYPOINTS_OF_JOINTS, HumanDataFile, HumanDataSet
from adhmr.data.sources.registry import SOURCES, source_class
from adhmr.data.sources.source import Release
from adhmr.errors import AdhmrError
from tests.data.sources.made_human_data import Row, as_object, parameters, write_human_data
from tests.data.sources.made_people import Photograph, open_body_as_smplx, photographs
from tests.data.sources.read_back import assert_labels, assert_on_person, samples_of

#: set -> split, folder of images, image_path of photograph n, and its group
LAYOUTS = {
    "hi4d": ("train", "HI4D", "data/pair0{n}/images/4/000001.jpg", "pair0{n}"),
    "bedlam": ("train", "BEDLAM", "2022_1000/png/seq_00000{n}/seq_00000{n}_0000.png", "2022_1000/png/seq_00000{n}"),
    "dna-rendering": (
        "train",
        "RenBody",
        "image/20220715/one_{n}_f/one_a1/image/50/0001.jpg",
        "image/20220715/one_{n}_f",
    ),
    "gta-human": ("train", "GTA_Human2", "images_multiple/seq_0{n}/00000000.jpeg", "images_multiple/seq_0{n}"),
    "spec": ("test", "SPEC", "pano_{n}/0001.jpg", "pano_{n}"),
    "insta-variety": ("train", "InstaVariety", "images/someone/video_{n}/000001.jpg", "images/someone/video_{n}"),
    "3dhp-neuralannot": ("train", "MPI_INF_3DHP", "S{n}/Seq1/images/V0/000001.jpg", "S{n}"),
    "up3d-humandata": ("trainval", "UP3D", "images/0000{n}_image.png", "images/0000{n}_image.png"),
}
GTA_CAMERA = np.array([[1158.0337, 0, 960], [0, 1158.0337, 540], [0, 0, 1.0]])


@lru_cache
def pictures(size: tuple[int, int], gta: bool = False) -> list[Photograph]:
    """Two photographs; in wide ones there are two people."""
    return photographs(2, 2 if size[1] > size[0] else 1, size, seed=7, intrinsics=GTA_CAMERA if gta else None)


@pytest.fixture(scope="module")
def smplx(tmp_path_factory) -> Path:
    return open_body_as_smplx(tmp_path_factory.mktemp("bodies") / "SMPLX_NEUTRAL.npz")


def rows_of(photos: list[Photograph], pattern: str) -> list[Row]:
    return [Row(pattern.format(n=n), photo, one) for n, photo in enumerate(photos) for one in photo.people]


def save_images(rows: list[Row], folder: Path) -> None:
    for row in {row.image: row for row in rows}.values():
        row.photograph.save(folder / row.image)


def official_oddities(name: str, rows: list[Row], spec: HumanDataSet) -> dict[str, np.ndarray]:
    """Members in place of the usual ones: what the official files of some sets have that others have not."""
    if name == "hi4d":  # sizes that are wrong
        cameras = [row.photograph.intrinsics for row in rows]
        meta = {"height": [1, 1], "width": [1, 1], "gender": ["male", "female"]}
        meta["focal_length"] = [(matrix[0, 0], matrix[1, 1]) for matrix in cameras]
        return {"meta": as_object(meta | {"principal_point": [matrix[:2, 2] for matrix in cameras]})}
    stored = parameters([row.person for row in rows], spec.model)
    if name == "bedlam":  # eleven betas
        stored["betas"] = np.concatenate([stored["betas"], np.ones((len(rows), 1))], axis=1)
    elif name == "dna-rendering":  # shapes of a gendered body beside those of the neutral one
        stored |= {"betas_neutral": stored["betas"], "betas": stored["betas"] + 2}
    elif name == "gta-human":  # neither face nor eyes
        stored = {key: value for key, value in stored.items() if "pose" not in key or key == "body_pose"}
    return {spec.model: as_object(stored)}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_set_gives_its_people_back(name, smplx, tmp_path):
    split, folder, pattern, group = LAYOUTS[name]
    spec = source_class(name).spec
    files = spec.files[split]
    rows = rows_of(pictures(spec.size or (480, 640), name == "gta-human"), pattern)
    save_images(rows, tmp_path / folder)
    for file, at in zip(files, np.array_split(np.arange(len(rows)), len(files)), strict=True):
        part = [rows[number] for number in at]
        changed = official_oddities(name, part, spec)
        # Half of the sets with compressed keypoints, half without.
        compressed = list(LAYOUTS).index(name) % 2 == 0
        write_human_data(tmp_path / file, part, spec.model, compressed, name != "gta-human", **changed)
    out = tmp_path / "out"
    convert(name, Release(tmp_path, split), out, BodyFiles(smplx={"neutral": smplx}), ContextCrop(), processes=1)
    samples = samples_of(out)
    assert len(samples) == len(rows)
    for sample, row in zip(samples, rows, strict=True):
        assert_labels(sample, row.person, same_body=spec.model == "smpl", shape=name != "hi4d")
        assert_on_person(sample)
        number = next(n for n in range(2) if row.image == pattern.format(n=n))
        assert sample.provenance["group"] == group.format(n=number)


def test_every_humandata_set_has_a_layout_here():
    named = {name for name, place in SOURCES.items() if "human_data_sets" in place}
    assert named == {*LAYOUTS, "human-data"}


def test_keypoints_are_the_same_compressed_or_not(tmp_path):
    rows = rows_of(pictures((480, 640)), "a/{n}.jpg")
    files = [HumanDataFile(write_human_data(tmp_path / f"{flag}.npz", rows, "smpl", flag)) for flag in (True, False)]
    (pixels, confidence), (same, as_sure) = (file.joints_px() for file in files)
    np.testing.assert_array_equal(pixels, same)
    np.testing.assert_array_equal(confidence, as_sure)
    known = np.flatnonzero(confidence[0])
    assert known.tolist() == [joint for joint in range(29) if joint != 24]  # SMPL's head top is not among the 190
    np.testing.assert_allclose(pixels[0][known], rows[0].person.joints29_px[known], atol=1e-3)
    assert (KEYPOINTS_OF_JOINTS[:22] == range(22)).all()


def release(tmp_path: Path, model: str = "smpl", **changed) -> list[Row]:
    """A release of SPEC's layout in miniature, read by `human-data`."""
    rows = rows_of(pictures((480, 640)), "seq{n}/0001.jpg")
    save_images(rows, tmp_path)
    write_human_data(tmp_path / "people.npz", rows, model, **changed)
    return rows


def convert_any(tmp_path: Path, bodies: BodyFiles | None = None, **options) -> dict[str, int]:
    """Reasons of those who were left out."""
    there = Release(tmp_path, "all", file=tmp_path / "people.npz")
    convert("human-data", there, tmp_path / "out", bodies or BodyFiles(), ContextCrop(), processes=1, **options)
    return json.loads((tmp_path / "out" / "report.json").read_text())["rejected"]


def test_any_file_with_or_without_camera_and_place(tmp_path):
    """Without transl a body is put where its keypoints are; without a camera it has pixels and no place."""
    rows = rows_of(pictures((480, 640)), "seq{n}/0001.jpg")
    stored = parameters([row.person for row in rows], "smpl")
    del stored["transl"]
    release(tmp_path, smpl=as_object(stored))
    assert convert_any(tmp_path) == {}
    for sample, row in zip(samples_of(tmp_path / "out"), rows, strict=True):
        assert_labels(sample, row.person)
        assert_on_person(sample)


@pytest.mark.parametrize(
    ("changed", "reasons"),
    [
        ({"key": "body_pose", "to": np.nan}, {"its pose is not a number": 1}),
        ({"key": "betas", "to": np.nan}, {"its shape is not a number": 1}),
        ({"key": "betas", "to": 30.0}, {"its shape is beyond 8 deviations": 1}),
        ({"key": "transl", "times": 1000.0}, {"its joints do not project onto its joints in the image": 1}),
        ({"key": "transl", "times": -1.0}, {"it is behind the camera or at it": 1}),
        ({"key": "global_orient", "times": 57.3}, {"its pose has a rotation of several turns (degrees?)": 1}),
    ],
)
def test_people_that_cannot_be_are_left_out_and_counted(changed, reasons, tmp_path):
    """The first person is spoilt: not a number, millimetres, degrees."""
    rows = rows_of(pictures((480, 640)), "seq{n}/0001.jpg")
    stored = parameters([row.person for row in rows], "smpl")
    stored[changed["key"]][0] = changed.get("to", stored[changed["key"]][0] * changed.get("times", 1.0))
    release(tmp_path, smpl=as_object(stored))
    assert convert_any(tmp_path) == reasons
    samples = samples_of(tmp_path / "out")
    assert len(samples) == len(rows) - 1
    for sample, row in zip(samples, rows[1:], strict=True):
        assert_labels(sample, row.person)
    assert (tmp_path / "out" / "rejected.txt").read_text() == f"people-00000000\t{next(iter(reasons))}\n"


def test_images_that_are_missing_broken_or_another(tmp_path):
    rows = release(tmp_path)
    first, second = (tmp_path / image for image in sorted({row.image for row in rows}))
    content = first.read_bytes()
    first.unlink()
    assert convert_any(tmp_path) == {"its image is missing": 2}
    for broken in (content[: len(content) // 2], b"no image", content[:2000] + bytes(len(content) - 2000), b""):
        shutil.rmtree(tmp_path / "out")
        first.write_bytes(broken)
        assert convert_any(tmp_path) == {"its image cannot be decoded": 2}, broken[:10]
    shutil.rmtree(tmp_path / "out")
    first.write_bytes(content)
    cv2.imwrite(str(second), cv2.imread(str(second))[:400])  # of another shape
    assert convert_any(tmp_path) == {"its image has another size than its annotation says": 2}


def test_an_image_that_was_resized_with_its_shape_takes_its_labels_along(tmp_path):
    rows = release(tmp_path)
    for image in {row.image for row in rows}:
        cv2.imwrite(str(tmp_path / image), cv2.resize(cv2.imread(str(tmp_path / image)), (320, 240)))
    assert convert_any(tmp_path) == {}
    for sample, row in zip(samples_of(tmp_path / "out"), rows, strict=True):
        assert_labels(sample, row.person)
        assert_on_person(sample)
        assert sample.provenance["affine"][0][0] == 1.0


def test_an_empty_box_is_left_out(tmp_path):
    boxes = np.array([[10, 10, 0, 50, 1.0], [10, 10, 100, 100, 1.0], [10, 10, 80, -1, 1.0], [np.nan] * 5])
    release(tmp_path, bbox_xywh=boxes)
    assert convert_any(tmp_path) == {"its box is empty": 3}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image_path": None}, "there is no key 'image_path'"),
        ({"smpl": None}, "neither 'smplx' nor 'smpl'"),
        ({"smpl": as_object({"betas": np.zeros((4, 10))})}, "smpl has no 'global_orient'"),
        ({"keypoints2d_smpl_mask": None}, "keypoints2d_smpl_mask must be (190,)"),
        ({"keypoints2d_smpl": np.zeros((4, 144, 3))}, "keypoints2d_smpl has shape (4, 144, 3), expected (4, 28, 3)"),
        ({"bbox_xywh": np.zeros((3, 5))}, "bbox_xywh has 3 rows, image_path 4"),
        ({"meta": np.array("none")}, "'meta' is ndarray, expected a dictionary"),
    ],
)
def test_a_file_that_is_not_right_is_refused(changed, message, tmp_path):
    release(tmp_path, **changed)
    with pytest.raises(AdhmrError, match=re.escape(message)) as caught:
        convert_any(tmp_path)
    assert "people.npz" in str(caught.value)


def test_files_that_are_missing_are_named(tmp_path):
    (tmp_path / "SPEC").mkdir()
    with pytest.raises(AdhmrError, match=r"no preprocessed_datasets/spec_train_smpl.npz; docs/datasets.md"):
        convert("spec", Release(tmp_path, "train"), tmp_path / "out", BodyFiles(), ContextCrop())
    (tmp_path / "preprocessed_datasets").mkdir()
    (tmp_path / "preprocessed_datasets/spec_train_smpl.npz").write_bytes(b"PK no archive")
    with pytest.raises(AdhmrError, match=r"spec_train_smpl.npz: not a readable .npz"):
        convert("spec", Release(tmp_path, "train"), tmp_path / "out", BodyFiles(), ContextCrop())


def test_smplx_people_need_a_smplx_body(tmp_path):
    release(tmp_path, model="smplx")
    with pytest.raises(AdhmrError, match="give its file with --smplx"):
        convert_any(tmp_path)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Runs:
        def __reduce__(self):
            return print, ("run",)

    release(tmp_path, meta=np.array(Runs(), object))
    with pytest.raises(AdhmrError, match=r"people\.npz"):
        convert_any(tmp_path)


def test_every_so_many_th_image_with_all_of_its_people(tmp_path):
    release(tmp_path)
    there = Release(tmp_path, "all", stride=2, file=tmp_path / "people.npz")
    convert("human-data", there, tmp_path / "out", BodyFiles(), ContextCrop(), processes=1)
    assert [sample.provenance["image"] for sample in samples_of(tmp_path / "out")] == ["seq0/0001.jpg"] * 2
