"""What is wrong with people or files in ScoreHypo's JSON form: people are left out and counted, files are refused."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from adhmr.data.sources.registry import source_class
from adhmr.data.sources.source import Release
from adhmr.errors import AdhmrError
from tests.data.sources import made_scorehypo as made
from tests.data.sources.made_people import photographs
from tests.data.sources.made_scorehypo import H36M_IMAGE, H36M_TRAIN, pictures
from tests.data.sources.read_back import MILLIMETRE, converted, rejected, samples_of


def test_what_is_wrong_with_a_person_is_counted(tmp_path):
    rows = made.rows_of(photographs(6, 2, seed=12), H36M_IMAGE)
    content = made.h36m(rows, "train")
    people = content["annotations"]
    people[0]["bbox"] = [10.0, 10.0, 0.0, 0.0]
    people[1]["bbox"] = [5000.0, 10.0, 50.0, 50.0]
    people[2]["thetas"][5] = float("nan")
    people[3]["betas"][0] = 40.0
    people[4]["smpl_joints"] = (np.array(people[4]["smpl_joints"]) / 1000).tolist()
    people[5]["smpl_joints"][7][2] = float("nan")  # one joint is unknown: the body has it
    content["images"][6]["width"] = 500  # both people of photograph 3 are in an image of this other shape
    content["images"][7]["width"] = 500
    content["images"][8]["file_name"] = content["images"][9]["file_name"] = "nowhere/1.jpg"
    made.save_release(tmp_path / "in", H36M_TRAIN, content, "images", rows)
    broken = tmp_path / "in/images" / rows[10].image
    broken.write_bytes(broken.read_bytes()[:300])
    lines = converted("h36m-scorehypo", tmp_path / "in", "train", tmp_path / "out")
    assert rejected(tmp_path / "out") == {
        "its box is empty or outside the image": 2,
        "its pose is not a number": 1,
        "its shape is beyond 8 deviations": 1,
        "its annotated joints are not those of its annotated body": 1,
        "its image has another size than its annotation says": 2,
        "its image is missing": 2,
        "its image cannot be decoded": 2,
    }
    samples = samples_of(tmp_path / "out")
    assert len(samples) == 1 and any("more than 20%" in line for line in lines)
    assert np.abs(samples[0].record["joints29"] - rows[5].person.joints29).max() < MILLIMETRE


def test_a_file_in_another_unit_is_refused(tmp_path):
    rows = made.rows_of(pictures(), "street_0{n}/image_00007.jpg")
    for split, other in (("train", "test"), ("test", "train")):
        root = tmp_path / split
        file = f"annotations/3DPW_{split}.json"
        made.save_release(root, file, made.pw3d(rows, other), "imageFiles", rows)
        with pytest.raises(AdhmrError, match=r"'smpl_joint_cam', read as (milli)?metres.*another unit") as error:
            converted("3dpw-json", root, split, tmp_path / "out")
        assert file in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: one["annotations"][3].pop("thetas"), "number 3 of annotations: there is no 'thetas'; expected 24"),
        (lambda one: one["annotations"][3]["thetas"].pop(), "'thetas' has 71 numbers; expected 24 x 3"),
        (lambda one: one["annotations"][3]["smpl_joints"][2].pop(), "'smpl_joints' has rows of different lengths"),
        (lambda one: [image["cam_param"].pop("f") for image in one["images"]], "no 'cam_param.f' in images"),
        (lambda one: one["images"][1].pop("file_name"), "image number 1 has no 'file_name'"),
        (lambda one: one["images"].pop(), "number 5 of annotations is of image 5, which is not among its images"),
        (lambda one: one.pop("images"), "there is no list 'images'"),
        (lambda one: one.update(images={}), "stands where the list images should be"),
        (lambda one: one["annotations"].insert(2, 7), "number 2 of annotations is int"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(change, message, tmp_path):
    rows = made.rows_of(pictures(), H36M_IMAGE)
    content = made.h36m(rows, "train")
    change(content)
    made.save_release(tmp_path, H36M_TRAIN, content, "images", rows[:1])
    with pytest.raises(AdhmrError, match=message) as error:
        source_class("h36m-scorehypo")(Release(tmp_path, "train"))
    assert str(tmp_path / H36M_TRAIN) in str(error.value)


def test_missing_and_broken_files_are_named(tmp_path):
    rows = made.rows_of(pictures(), H36M_IMAGE)
    with pytest.raises(AdhmrError, match=r"there is no annotations/Sample_5_train.*docs/datasets\.md"):
        source_class("h36m-scorehypo")(Release(tmp_path, "train"))
    made.save_release(tmp_path, H36M_TRAIN, made.h36m(rows, "train"), "images", rows[:1])
    path = tmp_path / H36M_TRAIN
    text = path.read_text()
    for broken in (text[: len(text) // 2], "", "[1, 2", text.replace('"annotations"', "annotations"), "<html>"):
        path.write_text(broken)
        with pytest.raises(AdhmrError, match="JSON"):
            source_class("h36m-scorehypo")(Release(tmp_path, "train"))
    path.write_text(text)
    shutil.rmtree(tmp_path / "images")
    with pytest.raises(AdhmrError, match="there is no images"):
        source_class("h36m-scorehypo")(Release(tmp_path, "train"))
