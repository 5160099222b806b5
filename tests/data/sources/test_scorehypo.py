"""The sets in ScoreHypo's JSON form, converted from their own layouts and units and read back; which joints, frames
and people count."""

from __future__ import annotations

import json

import numpy as np
import pytest

from adhmr.data.sources.person import Person
from adhmr.data.sources.registry import source_class
from adhmr.data.sources.scorehypo_sets import Mpi3dhp
from adhmr.data.sources.source import Rejected, Release
from tests.data.sources import made_scorehypo as made
from tests.data.sources.made_scorehypo import H36M_IMAGE, H36M_TEST, H36M_TRAIN, pictures
from tests.data.sources.read_back import (
    MILLIMETRE,
    assert_consistent,
    assert_labels,
    assert_on_person,
    converted,
    rejected,
    samples_of,
)

#: set -> split, annotations, folder of the images, how the file calls photograph n, what its content is made by, group
LAYOUTS = {
    "h36m-scorehypo": [
        ("train", H36M_TRAIN, "images", H36M_IMAGE, lambda rows: made.h36m(rows, "train"), "s_0{n}"),
        ("test", H36M_TEST, "images", H36M_IMAGE, lambda rows: made.h36m(rows, "test"), "s_0{n}"),
    ],
    "3dpw-json": [
        (split, f"annotations/3DPW_{split}.json", "imageFiles", "street_0{n}/image_00007.jpg", content, "street_0{n}")
        for split, content in (
            ("train", lambda rows: made.pw3d(rows, "train")),
            ("test", lambda rows: made.pw3d(rows, "test")),
            ("oc", lambda rows: made.pw3d(rows, "oc")),
        )
    ],
    "coco-scorehypo": [
        (
            "train",
            "annotations/person_keypoints_coco.json",
            "images",
            "train2017/00000000000{n}.jpg",
            lambda rows: made.people_list(rows, valid=True),
            "train2017/00000000000{n}.jpg",
        )
    ],
    "mpii-scorehypo": [
        (
            "train",
            "annotations/process_db_mpii.json",
            ".",
            "images/01560{n}.jpg",
            lambda rows: made.people_list(rows, 24, twists=False),
            "images/01560{n}.jpg",
        )
    ],
    "up3d-scorehypo": [
        (
            "train",
            "annotations/process_db_up3d.json",
            ".",
            "images/0000{n}_image.png",
            made.people_list,
            "images/0000{n}_image.png",
        )
    ],
    "surreal-scorehypo": [
        (
            "train",
            "annotations/train_surreal.json",
            "images",
            "train/run0/01_0{n}/01_0{n}_c0001_00005.jpg",
            lambda rows: made.people_list(rows, 24),
            "01_0{n}",
        )
    ],
}
CASES = [(name, *layout) for name, layouts in LAYOUTS.items() for layout in layouts]


@pytest.mark.parametrize(
    ("name", "split", "file", "folder", "pattern", "content", "group"),
    CASES,
    ids=[f"{one[0]}-{one[1]}" for one in CASES],
)
def test_every_set_gives_its_people_back(name, split, file, folder, pattern, content, group, tmp_path):
    rows = made.rows_of(pictures()[:2], pattern)
    made.save_release(tmp_path / "in", file, content(rows), folder, rows)
    converted(name, tmp_path / "in", split, tmp_path / "out")
    samples = samples_of(tmp_path / "out")
    assert len(samples) == len(rows) and not rejected(tmp_path / "out")
    given = "angle_twist" in json.dumps(content(rows))
    for number, (sample, row) in enumerate(zip(samples, rows, strict=True)):
        conf = np.arange(23) != made.UNKNOWN_TWIST if given else np.ones(23, bool)
        assert (sample.record["twists_conf"] == conf).all()
        sample.record["twists_conf"] = 1  # the one that is not known was checked
        sample.record["twists"][made.UNKNOWN_TWIST] = row.person.twists[made.UNKNOWN_TWIST]
        assert_labels(sample, row.person)
        assert_on_person(sample)
        assert sample.record["has_joints17"]
        assert np.abs(sample.record["joints17"] - row.person.joints17).max() < MILLIMETRE
        assert sample.provenance["group"] == group.format(n=number // 2)
        assert sample.provenance["source"] == f"{source_class(name).describe(split).name}-{split}"


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    "on_disk",
    [
        lambda name: name,
        lambda name: name.replace("imageSequence", "imageFrames"),
        lambda name: f"S{name[1]}/Seq1/imageFrames/video_0/frame_000042.jpg",
    ],
)
def test_mpi_inf_3dhp_has_the_limbs_and_their_depth(split, on_disk, tmp_path):
    rows = made.rows_of([photo for photo in pictures()], "S{n}/Seq1/imageSequence/img_S{n}_Seq1_V0_000042.jpg")
    file = f"annotations/annotation_mpi_inf_3dhp_{'train_v2' if split == 'train' else 'test'}.json"
    folder = f"images/mpi_inf_3dhp_{split}_set"
    made.save_release(tmp_path / "in", file, made.hp3d(rows, split), folder, rows, on_disk)
    converted("3dhp-scorehypo", tmp_path / "in", split, tmp_path / "out")
    samples = samples_of(tmp_path / "out")
    assert len(samples) == 6
    known = list(Mpi3dhp.JOINTS_29[28])
    assert sorted(known) == sorted(Mpi3dhp.JOINTS_29[17])
    for number, (sample, row) in enumerate(zip(samples, rows, strict=True)):
        record = sample.record
        assert np.flatnonzero(record["joints_conf"]).tolist() == known
        assert np.abs(record["joints29"] - row.person.joints29)[known].max() < MILLIMETRE
        points = record["joints29"][known] @ record["intrinsics"].T
        assert np.abs(points[:, :2] / points[:, 2:] - record["joints29_px"][known]).max() < 0.1
        assert record["has_depth"] and record["has_joints17"]
        assert not (record["has_pose"] or record["has_betas"] or record["has_twists"])
        # Joints of both skeletons share keypoints: the limbs' are the 29's here.
        torso = [list(Mpi3dhp.JOINTS_17[28]).index(keypoint) for keypoint in (18, 23, 3, 6, 7)]
        assert np.abs(record["joints17"] - row.person.joints17)[torso].max() < MILLIMETRE
        assert sample.provenance["group"] == f"S{number // 2}"


def test_frames_of_3dhp_are_found_when_the_first_is_missing(tmp_path):
    rows = made.rows_of(pictures(), "S{n}/Seq1/imageSequence/img_S{n}_Seq1_V0_000042.jpg")
    file, folder = "annotations/annotation_mpi_inf_3dhp_train_v2.json", "images/mpi_inf_3dhp_train_set"

    def on_disk(name: str) -> str:
        return name.replace("imageSequence", "imageFrames")

    made.save_release(tmp_path, file, made.hp3d(rows, "train"), folder, rows, on_disk)
    (tmp_path / folder / on_disk(rows[0].image)).unlink()
    people = source_class("3dhp-scorehypo")(Release(tmp_path, "train")).people(range(6))
    assert [one.image for one in people] == [rows[0].image] * 2 + [on_disk(row.image) for row in rows[2:]]


def test_frames_of_3dhp_that_were_stored_smaller_keep_their_labels(tmp_path):
    rows = made.rows_of(pictures()[:1], "S{n}/Seq1/imageSequence/img_S{n}_Seq1_V0_000042.jpg")
    content = made.hp3d(rows, "train")
    for entry in content["images"] + content["annotations"]:  # labels for frames of twice the size
        if "width" in entry:
            entry["width"], entry["height"] = 2 * entry["width"], 2 * entry["height"]
        else:
            matrix = np.array(entry["cam_param"]["intrinsic_param"])
            matrix[:2] *= 2
            entry["cam_param"]["intrinsic_param"] = matrix.tolist()
    file = "annotations/annotation_mpi_inf_3dhp_train_v2.json"
    made.save_release(tmp_path / "in", file, content, "images/mpi_inf_3dhp_train_set", rows)
    converted("3dhp-scorehypo", tmp_path / "in", "train", tmp_path / "out")
    known = list(Mpi3dhp.JOINTS_29[28])
    for sample, row in zip(samples_of(tmp_path / "out"), rows, strict=True):
        affine = np.array(sample.provenance["affine"])
        pixels = row.person.joints29_px @ affine[:, :2].T + affine[:, 2]
        assert np.abs(sample.record["joints29_px"] - pixels)[known].max() < 0.1


def test_strides_count_the_people_that_the_released_code_keeps(tmp_path):
    rows = made.rows_of(pictures() * 4, H36M_IMAGE.replace("{n}", "9").replace("000001", "00000{n}"))  # 24 people
    content = made.h36m(rows, "test")
    for number in (1, 2, 3, 12):
        image = content["images"][number]
        image["file_name"] = image["file_name"].replace("act_02_subact_01", "act_05_subact_02")
    made.save_release(tmp_path, H36M_TEST, content, "images", rows[:1])
    source = source_class("h36m-scorehypo")(Release(tmp_path, "test", stride=10))
    people = source.people(range(len(source)))
    kept = [row for row in range(24) if row not in (1, 2, 3, 12)][::10]
    assert [one.provenance["row"] for one in people if isinstance(one, Person)] == kept == [0, 14]
    assert {one.reason for one in people if isinstance(one, Rejected)} == {"its labels are known to be wrong"}


def test_joints_that_do_not_count_and_zeros_have_no_weight(tmp_path):
    rows = made.rows_of(pictures()[:1], "train2017/00000000000{n}.jpg")
    content = made.people_list(rows, valid=True)
    content[0]["joint_cam_valid"][20] = [0, 0, 0]
    for key in ("joint_cam_29", "joint_img_29"):
        content[1][key][24:] = [[0.0, 0.0, 0.0]] * 5  # only 24 joints: the body has the others
    made.save_release(tmp_path / "in", "annotations/person_keypoints_coco.json", content, "images", rows)
    converted("coco-scorehypo", tmp_path / "in", "train", tmp_path / "out")
    first, second = samples_of(tmp_path / "out")
    assert np.flatnonzero(first.record["joints_conf"] == 0).tolist() == [20] and first.record["has_depth"]
    assert np.abs(second.record["joints29"] - rows[1].person.joints29).max() < MILLIMETRE
    assert_consistent(second.record)


def test_genders_name_the_body_of_the_parameters(tmp_path):
    rows = made.rows_of(pictures()[:1], "street_0{n}/image_00007.jpg")
    content = made.pw3d(rows, "test")
    content["annotations"][1]["smpl_param"].pop("gender")
    made.save_release(tmp_path, "annotations/3DPW_test.json", content, "imageFiles", rows)
    source = source_class("3dpw-json")(Release(tmp_path, "test"))
    assert [one.body.gender for one in source.people(range(2))] == ["male", "neutral"]
