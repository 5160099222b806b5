"""3DPW's own sequence files: people posed in the world and seen by a moving camera come back in the camera's frame."""

from __future__ import annotations

import numpy as np
import pytest
import roma
import torch

from adhmr.body.body_file import load_body_file
from adhmr.body.body_model import BodyModel, open_body_path
from adhmr.data.sources.bodies import BodyFiles
from adhmr.data.sources.pw3d_sequences import Pw3dSequences
from adhmr.data.sources.source import Rejected, Release
from adhmr.errors import AdhmrError
from tests.data.sources.made_people import Photograph, photographs
from tests.data.sources.made_scorehypo import save_sequence
from tests.data.sources.read_back import assert_labels, assert_on_person, converted, rejected, samples_of


@pytest.fixture(scope="module")
def video() -> list[Photograph]:
    """Photographs of two people, whose shapes stay the same in a sequence."""
    return photographs(2, 2, seed=75)


@pytest.mark.parametrize("gendered", [False, True])
def test_people_come_back_in_the_cameras_frame(gendered, video, tmp_path):
    for number, photo in enumerate(video):
        save_sequence(tmp_path / "in", "train", f"courtyard_0{number}", [photo], seed=number)
    bodies = BodyFiles()
    if gendered:  # the same body under another name: shapes are fitted, places and joints stay
        arrays = load_body_file(open_body_path())
        np.savez(tmp_path / "male.npz", **arrays)
        bodies = BodyFiles(smpl={"male": tmp_path / "male.npz"})
    converted("3dpw", tmp_path / "in", "train", tmp_path / "out", bodies)
    samples = samples_of(tmp_path / "out")
    people = [one for photo in video for one in photo.people]
    assert len(samples) == 4
    for number, (sample, one) in enumerate(zip(samples, people, strict=True)):
        assert sample.key == f"courtyard_0{number // 2}-{number % 2}-00000000"
        assert sample.provenance["group"] == f"courtyard_0{number // 2}"
        assert sample.provenance["person"] == number % 2 and sample.provenance["frame"] == 0
        assert_on_person(sample)
        if gendered and number % 2 == 0:
            record = sample.record
            assert record["has_betas"]
            assert np.abs(record["joints29"] - one.joints29).max() < 1e-3
            pose, betas, transl = (torch.tensor(record[name])[None] for name in ("pose", "betas", "transl"))
            own = BodyModel().joints29(roma.rotvec_to_rotmat(pose), betas, transl)[0].numpy()
            assert np.linalg.norm(own - one.joints29, axis=-1).max() < 5e-3
        else:
            assert_labels(sample, one, shape=False)


def test_invalid_cameras_and_planted_mistakes_are_counted(video, tmp_path):
    root = tmp_path / "in"
    save_sequence(root, "train", "a", video[:1], campose_valid=[np.array([0]), np.array([1])])
    clean = np.load(save_sequence(root, "train", "b", video[1:]), allow_pickle=True)
    poses = [clean["poses"][0].copy(), clean["poses"][1]]
    poses[0][0, 8] = np.nan
    joints = [clean["jointPositions"][0], clean["jointPositions"][1] * 1000]
    save_sequence(root, "train", "b", video[1:], poses=poses, jointPositions=joints)
    converted("3dpw", root, "train", tmp_path / "out")
    assert rejected(tmp_path / "out") == {
        "its camera's pose is not valid": 1,
        "its pose is not a number": 1,
        "its annotated joints are not those of its annotated body": 1,
    }
    assert [sample.key for sample in samples_of(tmp_path / "out")] == ["a-1-00000000"]


def test_strides_count_images_of_each_sequence(video, tmp_path):
    for name in ("a", "b"):
        save_sequence(tmp_path, "validation", name, video * 3)
    source = Pw3dSequences(Release(tmp_path, "validation", stride=4))
    people = source.people(range(len(source)))
    assert [one.image for one in people] == [f"{name}/image_0000{frame}.jpg" for name in "ab" for frame in (0, 0, 4, 4)]
    assert source.people(range(3, 5))[0].key == people[3].key
    assert not any(isinstance(one, Rejected) for one in people)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"cam_poses": None}, "there is no key 'cam_poses'; expected a sequence file of 3DPW"),
        ({"jointPositions": [np.zeros((1, 72))]}, r"'jointPositions' has shape \(1, 1, 72\), expected \(2, 1, 24, 3\)"),
        ({"poses": [np.zeros((1, 72)), np.zeros((2, 72))]}, "'poses' holds no numbers, or rows of different lengths"),
        ({"betas": [np.zeros(10)]}, "'betas' are of 1 people, 'genders' of 2"),
        ({"genders": ["m", "x"]}, "'genders' is .* expected m or f"),
    ],
)
def test_what_is_wrong_with_a_sequence_is_named(changed, message, video, tmp_path):
    path = save_sequence(tmp_path, "train", "a", video[:1], **changed)
    with pytest.raises(AdhmrError, match=message) as error:
        Pw3dSequences(Release(tmp_path, "train"))
    assert str(path) in str(error.value)


def test_missing_files_are_named(video, tmp_path):
    with pytest.raises(AdhmrError, match="there is no sequenceFiles/train"):
        Pw3dSequences(Release(tmp_path, "train"))
    (tmp_path / "sequenceFiles/train").mkdir(parents=True)
    with pytest.raises(AdhmrError, match=r"there is no \.pkl"):
        Pw3dSequences(Release(tmp_path, "train"))
    (tmp_path / "sequenceFiles/train/a.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    (tmp_path / "imageFiles").mkdir()
    with pytest.raises(AdhmrError, match="refused to load"):
        Pw3dSequences(Release(tmp_path, "train"))
