"""Sources with NeuralAnnot's fits, and EHF: layouts as released, labels to the millimetre, and what is wrong there."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from adhmr.data.sources.bodies import BodyFiles
from adhmr.data.sources.context_crop import ContextCrop
from adhmr.data.sources.convert import convert
from adhmr.data.sources.ehf import INTRINSICS
from adhmr.data.sources.source import Release
from adhmr.data.verify import verify
from adhmr.errors import AdhmrError
from tests.data.sources.made_annotations import (
    COCO_JOINTS,
    MPII_JOINTS,
    coco_files,
    fit_of,
    write_ehf,
    write_h36m,
    write_json,
    write_ply,
)
from tests.data.sources.made_people import Photograph, open_body_as_smplx, photographs
from tests.data.sources.read_back import MILLIMETRE, assert_labels, assert_on_person, samples_of


@lru_cache
def pictures() -> list[Photograph]:
    return photographs(10, 1, (300, 240), seed=3)


@lru_cache
def pairs() -> list[Photograph]:
    return photographs(2, 2, (480, 640), seed=5)


@pytest.fixture(scope="module")
def smplx(tmp_path_factory) -> Path:
    return open_body_as_smplx(tmp_path_factory.mktemp("bodies") / "SMPLX_NEUTRAL.npz")


def converted(name: str, root: Path, smplx: Path, split: str = "train", **release) -> tuple[list, dict[str, int]]:
    """The samples, and how many were rejected for which reason."""
    output = root.parent / f"{root.name}-out"
    bodies = BodyFiles(smplx={"neutral": smplx})
    convert(name, Release(root, split, **release), output, bodies, ContextCrop(), processes=1)
    assert verify(output) == []
    return samples_of(output), json.loads((output / "report.json").read_text())["rejected"]


def changed_json(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    write_json(path, content)


# ------------------------------------------------------------------------------------------------ Human3.6M
def test_human36m_comes_from_the_world_to_the_camera(tmp_path, smplx):
    write_h36m(tmp_path / "h36m", pictures())
    samples, rejected = converted("h36m-osx", tmp_path / "h36m", smplx)
    assert len(samples) == 20 and not rejected  # five subjects, two frames, two cameras
    for sample in samples:
        subject, frame = sample.provenance["subject"], sample.provenance["frame"][2]
        made = pictures()[[1, 5, 6, 7, 8].index(subject) * 2 + frame].people[0]
        assert_labels(sample, made, same_body=False)
        assert_on_person(sample)
        assert sample.provenance["group"] == f"S{subject}" and sample.record["has_joints17"]
        assert np.abs(sample.record["joints17"] - made.joints17).max() < MILLIMETRE
    assert len({sample.key for sample in samples}) == 20


def test_human36m_test_is_one_camera_of_the_other_subjects_and_frames_by_their_number(tmp_path, smplx):
    root = tmp_path / "h36m"
    write_h36m(root, pictures(), (9, 11))
    samples, _ = converted("h36m-osx", root, smplx, "test", stride=2)
    assert [(one.provenance["subject"], one.provenance["camera"]) for one in samples] == [(9, 4), (11, 4)]
    assert {one.provenance["frame"][2] for one in samples} == {0}


def test_human36m_traps(tmp_path, smplx):
    root = tmp_path / "h36m"
    write_h36m(root, pictures(), (9, 11))

    def path(part: str, subject: int = 9) -> Path:
        return root / f"annotations/Human36M_subject{subject}_{part}.json"

    def misplace(content: dict) -> None:
        fits = content["2"]["1"]
        fits["0"]["trans"] = [1000 * value for value in fits["0"]["trans"]]  # millimetres
        fits["1"]["body_pose"][5] = float("nan")

    changed_json(path("SMPLX_NeuralAnnot"), misplace)
    changed_json(path("joint_3d", 11), lambda content: content["2"]["1"].pop("0"))
    samples, rejected = converted("h36m-osx", root, smplx, "test")
    assert len(samples) == 1 and samples[0].provenance["subject"] == 11
    assert rejected.pop("its pose is not a number") == 1 and rejected.pop("its frame has no joints") == 1
    assert len(rejected) == 1 and set(rejected.values()) == {1}  # the one that is kilometres away

    changed_json(path("SMPLX_NeuralAnnot", 11), lambda content: content["2"]["1"]["1"].pop("shape"))
    with pytest.raises(AdhmrError, match=r"subject11_SMPLX.*frame 1: the fit has no 'shape'"):
        converted("h36m-osx", root, smplx, "test")
    changed_json(path("camera"), lambda content: content["4"].pop("t"))
    with pytest.raises(AdhmrError, match=r"subject9_camera.json, camera 4: 't'; expected R, t"):
        converted("h36m-osx", root, smplx, "test")
    path("joint_3d").unlink()
    with pytest.raises(AdhmrError, match=r"no annotations/Human36M_subject9_joint_3d.json.*docs/datasets.md"):
        converted("h36m-osx", root, smplx, "test")


# ------------------------------------------------------------------------------------------------ COCO and MPII
LAYOUTS = {
    "coco-neuralannot": (
        COCO_JOINTS,
        "{n:012d}.jpg",
        "images/train2017",
        "annotations/coco_wholebody_train_v1.0.json",
        "annotations/MSCOCO_train_SMPLX_all_NeuralAnnot.json",
    ),
    "mpii-neuralannot": (
        MPII_JOINTS,
        "images/{n:09d}.jpg",
        "data",
        "data/annotations/train.json",
        "data/annotations/MPII_train_SMPLX_NeuralAnnot.json",
    ),
}


def write_release(name: str, root: Path, change=lambda annotations, fits: None) -> None:
    joints, image, folder, annotation_file, fit_file = LAYOUTS[name]
    annotations, fits = coco_files(pairs(), joints, image)
    for n, picture in enumerate(pairs()):
        picture.save(root / folder / image.format(n=n))
    change(annotations, fits)
    write_json(root / annotation_file, annotations)
    write_json(root / fit_file, fits)


@pytest.mark.parametrize("name", LAYOUTS)
def test_people_with_fits(name, tmp_path, smplx):
    write_release(name, tmp_path / "set")
    samples, rejected = converted(name, tmp_path / "set", smplx)
    people = [one for picture in pairs() for one in picture.people]
    assert len(samples) == len(people) and not rejected
    for sample, made in zip(samples, people, strict=True):
        assert_labels(sample, made, same_body=False)  # the other skeleton's points change no label
        assert_on_person(sample)


@pytest.mark.parametrize("name", LAYOUTS)
def test_people_without_a_fit_keep_their_points(name, tmp_path, smplx):
    write_release(name, tmp_path / "set", lambda annotations, fits: fits.pop("101"))
    samples, _ = converted(name, tmp_path / "set", smplx)
    record, made = samples[1].record, pairs()[0].people[1]
    assert not record["has_pose"] and not record["has_depth"] and not record["has_betas"]
    joints = list(LAYOUTS[name][0].values()) + ([27, 28] if name.startswith("coco") else [])
    assert sorted(np.flatnonzero(record["joints_conf"])) == sorted(joints)
    affine = np.array(samples[1].provenance["affine"])
    pixels = made.joints29_px @ affine[:, :2].T + affine[:, 2]
    limbs = [joint for joint in joints if joint < 24]
    assert np.abs(record["joints29_px"][limbs] - pixels[limbs] - 2 * affine[0, 0]).max() < 0.01


def test_coco_traps(tmp_path, smplx):
    def change(annotations: dict, fits: dict) -> None:
        one, two = annotations["annotations"][:2]
        one["iscrowd"] = 1
        two["bbox"][2:] = [0, 0]
        fits["102"]["smplx_param"]["trans"][0] += 1.5  # another person's
        annotations["images"][1]["width"] += 50
        fits["999"] = fits["103"]  # of nobody

    write_release("coco-neuralannot", tmp_path / "set", change)
    with pytest.raises(AdhmrError, match=r"of 3 people not one could be converted") as error:
        converted("coco-neuralannot", tmp_path / "set", smplx)
    assert "its box is empty: 1" in str(error.value)
    assert "its joints do not project onto its joints in the image: 1" in str(error.value)
    assert "its image has another size than its annotation says: 1" in str(error.value)


def test_coco_files_that_are_not_right(tmp_path, smplx):
    root = tmp_path / "set"
    write_release("coco-neuralannot", root)
    *_, annotation_file, fit_file = LAYOUTS["coco-neuralannot"]
    changed_json(root / annotation_file, lambda content: content["annotations"][2].pop("foot_kpts"))
    with pytest.raises(AdhmrError, match=r"coco_wholebody_train_v1.0.json: one of its annotations has no 'foot_kpts'"):
        converted("coco-neuralannot", root, smplx)
    changed_json(root / fit_file, lambda content: content["101"].pop("cam_param"))
    with pytest.raises(AdhmrError, match=r"annotation 101: 'cam_param'; expected smplx_param and cam_param"):
        converted("coco-neuralannot", root, smplx)
    (root / fit_file).unlink()
    with pytest.raises(AdhmrError, match=r"MSCOCO_train_SMPLX_all_NeuralAnnot.json .nor annotations/MSCOCO"):
        converted("coco-neuralannot", root, smplx)


def test_a_missing_and_a_broken_image_are_counted(tmp_path, smplx):
    root = tmp_path / "set"
    write_release("mpii-neuralannot", root)
    (root / "data/images/000000000.jpg").unlink()
    samples, rejected = converted("mpii-neuralannot", root, smplx)
    assert len(samples) == 2 and rejected == {"its image is missing": 2}


# ------------------------------------------------------------------------------------------------ EHF
@lru_cache
def studio() -> list[Photograph]:
    return photographs(2, 1, (1200, 1600), seed=9, intrinsics=INTRINSICS)


@pytest.mark.parametrize("binary", [True, False])
def test_ehf_gives_joints_of_meshes(binary, tmp_path, smplx):
    write_ehf(tmp_path / "EHF", studio(), binary)
    samples, rejected = converted("ehf", tmp_path / "EHF", smplx, "test")
    assert len(samples) == 2 and not rejected
    for sample, picture in zip(samples, studio(), strict=True):
        made, record = picture.people[0], sample.record
        assert record["has_depth"] and not record["has_pose"] and not record["has_betas"] and not record["has_twists"]
        apart = np.linalg.norm(record["joints29"] - made.joints29, axis=-1)
        assert apart[24:].max() < MILLIMETRE  # vertices
        assert apart.mean() < 25 * MILLIMETRE  # the regressor on a posed mesh
        assert_on_person(sample)
        assert sample.provenance["box"] == pytest.approx(made.box.tolist(), abs=0.01)


def test_ehf_traps(tmp_path, smplx):
    root = tmp_path / "EHF"
    write_ehf(root, studio(), True)
    write_ply(root / "01_align.ply", np.zeros((10, 3)), True)
    with pytest.raises(AdhmrError, match=r"--smplx"):
        convert("ehf", Release(root, "test"), tmp_path / "no", BodyFiles(), ContextCrop(), processes=1)
    samples, rejected = converted("ehf", root, smplx, "test")
    assert len(samples) == 1 and rejected == {"its mesh has not the vertices of the SMPL-X file": 1}
    (root / "02_align.ply").write_bytes((root / "02_align.ply").read_bytes()[:5000])
    with pytest.raises(AdhmrError, match=r"02_align.ply: its vertices cannot be read"):
        convert("ehf", Release(root, "test"), tmp_path / "broken", BodyFiles(smplx={"neutral": smplx}), ContextCrop())
    (root / "01_align.ply").unlink()
    (root / "02_align.ply").unlink()
    with pytest.raises(AdhmrError, match=r"no data|no mesh"):
        converted("ehf", root, smplx, "test")


def test_a_fit_with_other_numbers_is_named(tmp_path, smplx):
    fit = fit_of(pairs()[0].people[0]) | {"jaw_pose": [0.0] * 4}
    write_release("mpii-neuralannot", tmp_path / "set", lambda _, fits: fits["100"].update(smplx_param=fit))
    with pytest.raises(AdhmrError, match=re.escape("annotation 100: 'jaw_pose' has 4 numbers, expected 3")):
        converted("mpii-neuralannot", tmp_path / "set", smplx)
