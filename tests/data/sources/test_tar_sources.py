"""Tars: WebDataset with labels in JSON, our own shards, and 4D-Humans' training tars."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from adhmr.data.sources.bodies import BodyFiles
from adhmr.data.sources.context_crop import ContextCrop
from adhmr.data.sources.convert import convert
from adhmr.data.sources.four_d_humans import KEYPOINTS
from adhmr.data.sources.source import Release
from adhmr.data.verify import verify
from adhmr.errors import AdhmrError
from tests.data.sources.made_human_data import parameters
from tests.data.sources.made_people import MadePerson, Photograph, open_body_as_smplx, photographs
from tests.data.sources.read_back import MILLIMETRE, assert_consistent, assert_labels, assert_on_person, samples_of


@lru_cache
def pairs() -> list[Photograph]:
    return photographs(3, 2, (300, 400), seed=7)


PEOPLE = [one for picture in pairs() for one in picture.people]


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def encoded(picture: Photograph, ending: str = ".jpg") -> bytes:
    return cv2.imencode(ending, picture.image[..., ::-1])[1].tobytes()


def label_of(person: MadePerson, model: str, picture: Photograph) -> dict:
    stored = {key: np.asarray(value[0]).tolist() for key, value in parameters([person], model).items()}
    focal, centre = picture.intrinsics[[0, 1], [0, 1]].tolist(), picture.intrinsics[:2, 2].tolist()
    return {model: stored, "focal": focal, "princpt": centre, "box": person.box.tolist()}


def converted(name: str, root: Path, **bodies) -> tuple[list, dict[str, int]]:
    split = "train" if name == "4dhumans" else "all"
    output = root.parent / f"{root.name}-{name}-out"
    convert(name, Release(root, split), output, BodyFiles(**bodies), ContextCrop(), processes=1)
    assert verify(output) == []
    return samples_of(output), json.loads((output / "report.json").read_text())["rejected"]


# ------------------------------------------------------------------------------------------------ WebDataset
def test_webdataset_with_every_form_of_label(tmp_path):
    smplx = open_body_as_smplx(tmp_path / "SMPLX_NEUTRAL.npz")
    one, two, three = pairs()
    whole = {"intrinsics": two.intrinsics.tolist(), "group": "walk"}
    shared = [{"smpl": label_of(person, "smpl", two)["smpl"]} for person in two.people]
    joints = three.people[0]
    only_joints = {"joints29": joints.joints29.tolist(), "intrinsics": three.intrinsics.tolist(), "width": 400}
    only_joints |= {"height": 300, "joints17": joints.joints17.tolist(), "joints29_px": joints.joints29_px.tolist()}
    only_joints["joints29"][28], only_joints["joints29_px"][28] = [None] * 3, [None] * 2
    write_tar(
        tmp_path / "set/a.tar",
        {
            "video/0.png": encoded(one, ".png"),
            "video/0.json": json.dumps([label_of(person, "smplx", one) for person in one.people]).encode(),
            "video/1.jpg": encoded(two),
            "video/1.json": json.dumps({"people": shared, **whole}).encode(),
            "notes.txt": b"nothing to see",
        },
    )
    write_tar(
        tmp_path / "set/more/b.tar",
        {"video/0.jpeg": encoded(three), "video/0.json": json.dumps(only_joints).encode(), "x.jpg": encoded(three)},
    )
    samples, rejected = converted("webdataset", tmp_path / "set", smplx={"neutral": smplx})
    assert len(samples) == 6 and not rejected and len({sample.key for sample in samples}) == 6
    for sample, made in zip(samples[:4], PEOPLE, strict=False):
        assert_labels(sample, made, same_body=sample.key.startswith("video_1"))
        assert_on_person(sample)
    assert [sample.provenance["group"] for sample in samples] == ["video/0"] * 2 + ["walk"] * 2 + ["video/0", "x"]
    record = samples[4].record
    assert record["has_depth"] and record["has_joints17"] and not record["has_pose"]
    assert np.abs(record["joints29"] - joints.joints29)[:28].max() < MILLIMETRE
    assert np.abs(record["joints17"] - joints.joints17).max() < MILLIMETRE
    assert not samples[5].record["joints_conf"].any()  # no JSON: an unlabelled image


def test_webdataset_traps(tmp_path):
    one, two, three = pairs()
    wrong = label_of(PEOPLE[0], "smpl", one)
    wrong["smpl"]["body_pose"] = wrong["smpl"]["body_pose"][:63]
    millimetres = label_of(PEOPLE[1], "smpl", one) | {"joints29": (PEOPLE[1].joints29 * 1000).tolist()}
    empty = {"box": [10, 10, 10, 50]}
    lost = label_of(PEOPLE[4], "smpl", three)
    lost["smpl"]["body_pose"][3] = float("nan")
    resized = label_of(PEOPLE[5], "smpl", three) | {"height": 300, "width": 300}
    write_tar(
        tmp_path / "set/a.tar",
        {
            "0.jpg": encoded(one),
            "0.json": json.dumps([wrong, millimetres, empty, label_of(PEOPLE[0], "smpl", one)]).encode(),
            "1.jpg": encoded(two),
            "1.json": b"{broken",
            "2.jpg": encoded(three),
            "2.json": json.dumps([lost, resized]).encode(),
            "3.jpg": encoded(two)[:500],
            "3.json": json.dumps(label_of(PEOPLE[2], "smpl", two)).encode(),
        },
    )
    samples, rejected = converted("webdataset", tmp_path / "set")
    assert len(samples) == 1
    assert_labels(samples[0], PEOPLE[0])
    assert rejected == {
        "its 'body_pose' has another number of numbers than it should": 1,
        "its annotated joints are not those of its annotated body": 1,
        "its box is empty": 1,
        "its JSON cannot be read": 1,
        "its pose is not a number": 1,
        "its image has another size than its annotation says": 1,
        "its image cannot be decoded": 1,
    }


def test_tars_that_are_not_right(tmp_path):
    def convert_it() -> None:
        converted("webdataset", tmp_path / "set")

    (tmp_path / "set").mkdir()
    with pytest.raises(AdhmrError, match=r"there is no \.tar file"):
        convert_it()
    (tmp_path / "set/a.tar.gz").write_bytes(b"")
    with pytest.raises(AdhmrError, match=r"a\.tar\.gz is compressed"):
        convert_it()
    write_tar(tmp_path / "set/a.tar", {"0.jpg": encoded(pairs()[0]), "1.jpg": encoded(pairs()[1])})
    content = (tmp_path / "set/a.tar").read_bytes()
    (tmp_path / "set/a.tar").write_bytes(content[: len(content) // 2])
    with pytest.raises(AdhmrError, match=r"a\.tar: not a whole tar file"):
        convert_it()


def test_own_shards_are_converted_again(tmp_path):
    one = pairs()[0]
    members = {"0.jpg": encoded(one), "0.json": json.dumps([label_of(x, "smpl", one) for x in one.people]).encode()}
    write_tar(tmp_path / "set/a.tar", members | {"1.jpg": encoded(pairs()[1])})
    first, _ = converted("webdataset", tmp_path / "set")
    again, rejected = converted("webdataset", tmp_path / "set-webdataset-out")
    assert len(again) == 3 and not rejected
    for old, new, made in zip(first, again, [*one.people, None], strict=True):
        assert new.provenance["group"] == old.provenance["group"]
        if made is None:
            points = [np.unique(sample.record["joints29_px"], axis=0) for sample in (old, new)]
            assert not new.record["joints_conf"].any() and len(points[0]) == len(points[1]) == 2
        else:
            assert_labels(new, made)
            assert_on_person(new)


# ------------------------------------------------------------------------------------------------ 4D-Humans
def four_d_label(person: MadePerson, picture: Photograph, pose: bool = True) -> dict:
    """Pose and keypoints of the camera that 4D-Humans' fits have: 5000 pixels in a crop of 256 about the person."""
    centre, side = picture.intrinsics[:2, 2], 5000.0 / 256
    side = picture.intrinsics[0, 0] / side
    points = np.zeros((44, 3), np.float32)
    for joint, rows in KEYPOINTS.items():
        points[rows[-1]] = *person.joints29_px[joint], 0.9
    return {
        "keypoints_2d": points,
        "keypoints_3d": np.zeros((44, 4), np.float32),
        "center": centre.astype(np.float32),
        "scale": np.full(2, side / 200, np.float32),
        "body_pose": person.pose.reshape(72).astype(np.float32),
        "betas": person.betas.astype(np.float32),
        "has_body_pose": np.float32(pose),
        "has_betas": np.float32(pose),
        "extra_info": {"fitting_loss": np.array({"reprojection_loss": 3.0}, dtype=object)},
    }


def test_4dhumans_places_fits_by_their_keypoints(tmp_path):
    members = {}
    for n, picture in enumerate(pairs()):
        members[f"coco-train/{n:06d}.jpg"] = encoded(picture)
        people = [four_d_label(person, picture, pose=n < 2) for person in picture.people]
        members[f"coco-train/{n:06d}.data.pyd"] = pickle.dumps(people)
    write_tar(tmp_path / "set/coco/000000.tar", members)
    samples, rejected = converted("4dhumans", tmp_path / "set")
    assert len(samples) == 6 and not rejected
    for sample, made in zip(samples[:4], PEOPLE, strict=False):
        record = sample.record
        believed = np.abs(made.betas).max() <= 3
        assert record["has_pose"] and record["has_depth"] and bool(record["has_betas"]) == believed
        assert np.abs(record["pose"] - made.pose).max() < 1e-4
        assert_consistent(record)
        if believed:
            assert np.abs(record["joints29"] - made.joints29).max() < 5 * MILLIMETRE
            assert_on_person(sample)
    record = samples[5].record
    assert not record["has_pose"] and sorted(np.flatnonzero(record["joints_conf"])) == sorted(KEYPOINTS)
    assert record["joints_conf"].max() == pytest.approx(0.9)


def test_4dhumans_traps(tmp_path):
    one, two, three = pairs()
    broken = four_d_label(PEOPLE[0], one) | {"scale": np.zeros(2, np.float32)}
    lost = four_d_label(PEOPLE[1], one)
    lost["body_pose"][5] = np.nan
    blind = four_d_label(PEOPLE[2], two) | {"keypoints_2d": np.zeros((44, 3), np.float32)}
    write_tar(
        tmp_path / "set/0.tar",
        {
            "0.jpg": encoded(one),
            "0.data.pyd": pickle.dumps([broken, lost]),
            "1.jpg": encoded(two),
            "1.data.pyd": pickle.dumps([blind, four_d_label(PEOPLE[3], two)]),
        },
    )
    samples, rejected = converted("4dhumans", tmp_path / "set")
    assert len(samples) == 1
    assert rejected == {
        "its box is empty": 1,
        "its pose is not a number": 1,
        "too few of its joints are known": 1,
    }
    short = four_d_label(PEOPLE[4], three) | {"body_pose": np.zeros(63, np.float32)}
    write_tar(tmp_path / "set/1.tar", {"2.jpg": encoded(three), "2.data.pyd": pickle.dumps([short])})
    with pytest.raises(AdhmrError, match=r"1\.tar: 'body_pose' of 2\.data\.pyd has the shape \(63,\)"):
        converted("4dhumans", tmp_path / "set")
    write_tar(tmp_path / "set/1.tar", {"2.jpg": encoded(three), "2.data.pyd": pickle.dumps([print])})
    with pytest.raises(AdhmrError, match=r"refused to load 'builtins\.print'"):
        converted("4dhumans", tmp_path / "set")
