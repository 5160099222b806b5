"""From people to records: what is annotated counts more than what is posed, places that nobody gave are found, other
bodies' shapes are fitted, and what cannot be right is left out with its reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import roma
import torch

from adhmr.body.body_file import load_body_file
from adhmr.body.body_model import BodyModel, open_body_path
from adhmr.data.sources.bodies import BodyFiles, fitted_betas
from adhmr.data.sources.labels import assumed_intrinsics, label_people
from adhmr.data.sources.person import Person, SmplLabel, SmplxLabel
from adhmr.data.sources.source import Rejected
from tests.data.sources.made_people import MadePerson, open_body_as_smplx, photographs

SIZE = (240, 320)


@pytest.fixture(scope="module")
def photos():
    return photographs(3, 1, SIZE, seed=5)


def person_of(photo, **changed) -> Person:
    made = photo.people[0]
    person = Person(
        key="one",
        image="one.jpg",
        group="g",
        intrinsics=photo.intrinsics,
        size=SIZE,
        body=SmplLabel(made.pose, made.betas, made.transl),
        joints29=made.joints29,
        joints29_px=made.joints29_px,
        joints17=made.joints17,
    )
    return replace(person, **changed)


def label(person: Person, bodies: BodyFiles | None = None) -> np.void | str:
    """The record, or why there is none."""
    (found,) = label_people([person], bodies or BodyFiles())
    return found.reason if isinstance(found, Rejected) else found[1]


def without_place(made: MadePerson) -> SmplLabel:
    return SmplLabel(made.pose, made.betas, None)


def test_a_body_alone_gives_every_label(photos):
    for photo in photos:
        made = photo.people[0]
        record = label(person_of(photo, joints29=None, joints29_px=None, joints17=None))
        np.testing.assert_allclose(record["joints29"], made.joints29, atol=1e-5)
        np.testing.assert_allclose(record["joints29_px"], made.joints29_px, atol=1e-2)
        np.testing.assert_allclose(record["twists"], made.twists, atol=1e-5)
        assert (record["joints_conf"] == 1).all() and not record["has_joints17"]


def test_joints_alone_give_depth_and_no_pose(photos):
    made = photos[0].people[0]
    record = label(person_of(photos[0], body=None))
    assert record["has_depth"] and record["has_joints17"]
    assert not record["has_pose"] and not record["has_betas"] and not record["has_twists"]
    np.testing.assert_allclose(record["joints29"], made.joints29, atol=1e-6)
    np.testing.assert_allclose(record["joints17"], made.joints17, atol=1e-6)


def test_annotated_joints_count_more_than_posed_ones(photos):
    made = photos[0].people[0]
    joints = made.joints29 + np.float32([0, 0.01, 0])
    joints[5] = np.nan  # this one is not annotated: the posed one stands in
    record = label(person_of(photos[0], joints29=joints))
    np.testing.assert_allclose(record["joints29"][6:], joints[6:], atol=1e-6)
    np.testing.assert_allclose(record["joints29"][5], made.joints29[5], atol=1e-5)


@pytest.mark.parametrize("known", ["joints29", "joints29_px"])
def test_a_body_without_a_place_is_put_where_its_joints_are(known, photos):
    made = photos[0].people[0]
    other = {"joints29", "joints29_px"} - {known}
    person = person_of(photos[0], body=without_place(made), **{name: None for name in other})
    record = label(person)
    np.testing.assert_allclose(record["joints29"], made.joints29, atol=1e-3)
    np.testing.assert_allclose(record["transl"], made.transl, atol=1e-3)
    assert record["has_pose"]


def test_a_body_without_a_place_or_a_camera_has_no_depth(photos):
    made = photos[0].people[0]
    record = label(person_of(photos[0], body=without_place(made), joints29=None, intrinsics=None))
    assert not record["has_pose"] and not record["has_depth"]
    assert record["has_betas"] and record["has_twists"]
    np.testing.assert_allclose(record["joints29_px"], made.joints29_px, atol=1e-3)
    np.testing.assert_allclose(record["intrinsics"], assumed_intrinsics(SIZE), atol=1e-3)


def test_confidence_is_kept_and_unknown_joints_have_none(photos):
    pixels = photos[0].people[0].joints29_px.copy()
    pixels[3] = np.nan
    confidence = np.full(29, 0.5)
    person = person_of(photos[0], joints29_px=pixels, confidence=confidence, body=None, joints29=None)
    record = label(person)
    assert record["joints_conf"][3] == 0 and (np.delete(record["joints_conf"], 3) == 0.5).all()


def test_annotated_twists_are_masked_where_they_are_unknown(photos):
    twists = np.linspace(-1, 1, 23)
    twists[[2, 7]] = np.nan
    record = label(person_of(photos[0], twists=twists))
    assert (record["twists_conf"] == np.isfinite(twists)).all() and record["has_twists"]
    np.testing.assert_allclose(record["twists"][0], [np.cos(-1), np.sin(-1)], atol=1e-6)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda made: {"joints29": made.joints29 * 1000, "body": None}, "its joints do not span what a person does"),
        (lambda made: {"joints29": made.joints29 / 1000, "body": None}, "its joints do not span what a person does"),
        (lambda made: {"joints29": made.joints29 * 1000}, "its annotated joints are not those of its annotated body"),
        (lambda made: {"joints29": made.joints29 - [0, 0, 9]}, "it is behind the camera or at it"),
        (lambda made: {"joints29_px": made.joints29_px + 80}, "its joints do not project onto its joints in the image"),
        (lambda made: {"joints29_px": made.joints29_px[:, ::-1]}, "its joints do not project"),
        (lambda made: {"intrinsics": np.diag([np.nan, 1, 1])}, "its camera is no pinhole camera"),
        (lambda made: {"intrinsics": np.zeros((3, 3))}, "its camera is no pinhole camera"),
        (lambda made: {"intrinsics": None, "size": None}, "neither its camera nor the size of its image is known"),
        (lambda made: {"box": np.array([5, 5, 5, 90.0])}, "its box is empty"),
        (lambda made: {"box": np.array([5, np.nan, 50, 90.0])}, "its box is empty"),
        (lambda made: {"body": SmplLabel(made.pose * np.nan, made.betas, made.transl)}, "its pose is not a number"),
        (lambda made: {"body": SmplLabel(made.pose, made.betas, np.full(3, np.inf))}, "its translation is not"),
        (lambda made: {"body": SmplLabel(made.pose * 57.3, made.betas, made.transl)}, "a rotation of several turns"),
        (lambda made: {"body": SmplLabel(made.pose, made.betas + 9, made.transl)}, "its shape is beyond 8"),
    ],
)
def test_what_cannot_be_right_is_left_out(spoil, reason, photos):
    answer = label(person_of(photos[0], **spoil(photos[0].people[0])))
    assert isinstance(answer, str) and reason in answer, answer


def test_many_people_of_all_kinds_keep_their_order(photos):
    people = [person_of(photos[n % 3], key=str(n)) for n in range(9)]
    people[1], people[5] = replace(people[1], body=None), replace(people[5], body=None)
    people.insert(4, Rejected("gone", "because"))
    found = label_people(people, BodyFiles())
    keys = [one.key if isinstance(one, Rejected) else one[0].key for one in found]
    assert keys == ["0", "1", "2", "3", "gone", "4", "5", "6", "7", "8"]


@pytest.fixture(scope="module")
def female(tmp_path_factory):
    """A body with narrower shoulders and hips and shorter arms than the open body: another gender."""
    arrays = dict(load_body_file(open_body_path()))
    arrays["v_template"] = (arrays["v_template"] * [0.95, 0.97, 1.0]).astype(np.float32)
    path = tmp_path_factory.mktemp("bodies") / "female.npz"
    np.savez(path, **arrays)
    return path


def test_shapes_move_between_genders(female, photos):
    """Joints stay where the annotated body has them; the fitted body has nearly its bones."""
    made = photos[0].people[0]
    other, own = BodyModel(female), BodyModel()
    betas = torch.from_numpy(made.betas)[None]
    fitted, left = fitted_betas(own, other.rest_joints29(betas))
    unfitted = (other.rest_joints29(betas) - own.rest_joints29(betas)).norm(dim=-1).mean()
    assert left < 0.012 and left < 0.5 * unfitted
    person = person_of(photos[0], joints29=None, joints29_px=None)
    person = replace(person, body=replace(person.body, gender="female"))
    record = label(person, BodyFiles(smpl={"female": female}))
    np.testing.assert_allclose(record["betas"], fitted[0], atol=1e-4)
    rotations = roma.rotvec_to_rotmat(torch.from_numpy(made.pose))[None]
    posed = other.joints29(rotations, betas, torch.from_numpy(made.transl)[None])[0]
    np.testing.assert_allclose(record["joints29"], posed, atol=1e-5)
    shape, place = (torch.from_numpy(record[name])[None] for name in ("betas", "transl"))
    again = own.joints29(rotations, shape, place)[0]
    assert (again[0] - posed[0]).norm() < 1e-4 and (again - posed).norm(dim=-1).mean() < 0.03
    same = label(person_of(photos[0], joints29=None, joints29_px=None), BodyFiles(smpl={"female": female}))
    np.testing.assert_allclose(same["betas"], made.betas, atol=1e-6)  # neutral: nothing is fitted


def test_a_fit_of_the_same_body_finds_its_bones():
    body = BodyModel()
    betas = torch.randn(20, 10, generator=torch.Generator().manual_seed(0))
    fitted, left = fitted_betas(body, body.rest_joints29(betas) + torch.tensor([1.0, 2.0, 3.0]))
    assert left.mean() < 0.004 and fitted.shape == (20, 10)


def test_smplx_hands_that_hold_the_whole_rotation_or_not(tmp_path, photos):
    """`flat_hands`: the file's mean hands are taken away, since they are added once more when the body is posed."""
    path = open_body_as_smplx(tmp_path / "SMPLX_NEUTRAL.npz")
    arrays = dict(np.load(path))
    arrays["hands_meanl"] = np.full(45, 0.3, np.float32)
    np.savez(path, **arrays)
    made = photos[0].people[0]
    hands = np.zeros((2, 15, 3))
    smplx = SmplxLabel(made.pose[0], made.pose[1:22], made.betas, made.transl, hands=hands, flat_hands=True)
    bodies = BodyFiles(smplx={"neutral": path})
    person = person_of(photos[0], joints29=None, joints29_px=None)
    flat = label(replace(person, body=smplx), bodies)
    np.testing.assert_allclose(flat["joints29"], made.joints29, atol=1e-4)
    bent = label(replace(person, body=replace(smplx, flat_hands=False)), bodies)
    apart = np.linalg.norm(bent["joints29"] - made.joints29, axis=-1)
    assert apart[25] > 0.005 and apart[:22].max() < 1e-4
    assert (flat["twists_conf"][21:] == 0).all() and (flat["twists_conf"][:21] == 1).all()
