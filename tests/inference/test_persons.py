from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adhmr.body.camera import apply_affine, project
from adhmr.errors import AdhmrError
from adhmr.inference.persons import PERSON_OVER_JOINTS, find_persons


@pytest.fixture
def images(tmp_path) -> list[Path]:
    """a.png, 80 x 60 with a white square, and b.png, 50 x 50."""
    pixels = np.zeros((60, 80, 3), np.uint8)
    pixels[20:40, 30:50] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((50, 50, 3), np.uint8)).save(tmp_path / "b.png")
    return [tmp_path / "a.png", tmp_path / "b.png"]


def test_without_boxes_each_image_is_one_person(images):
    people = find_persons(images, None, "", 1.25, None)
    assert [person.name for person in people] == ["a-0", "b-0"]
    assert people[0].box == (0, 0, 80, 60) and people[0].side == 80
    np.testing.assert_allclose(people[0].intrinsics, [[100, 0, 40], [0, 100, 30], [0, 0, 1]])  # the diagonal


def test_boxes_make_people_in_their_order(images):
    boxes = {"a.png": [(30, 20, 50, 40), (0, 0, 10, 60)]}
    people = find_persons(images, boxes, "boxes.json", 1.5, 500.0)
    assert [person.name for person in people] == ["a-0", "a-1"]  # b.png shows nobody
    assert people[1].side == pytest.approx(60 * 1.5 / PERSON_OVER_JOINTS) and people[1].focal == 500
    with pytest.raises(
        AdhmrError, match=r"boxes.json: has boxes of c.png and of 1 more, which is not among the images"
    ):
        find_persons(images, {"c.png": [], "d.png": []}, "boxes.json", 1.5, None)
    with pytest.raises(AdhmrError, match=r"boxes.json, box 1 of b.png: the box \[60, 0, 90, 20\] lies outside"):
        find_persons(images, {"b.png": [(0, 0, 5, 5), (60, 0, 90, 20)]}, "boxes.json", 1.5, None)


def test_crop_and_its_camera_agree(images):
    person = find_persons(images, {"a.png": [(30, 20, 50, 40)]}, "", 2 * PERSON_OVER_JOINTS, None)[0]
    crop = person.crop(np.asarray(Image.open(images[0])), 64)  # 40 x 40 pixels of the image
    assert crop.shape == (64, 64, 3) and (crop[18:46, 18:46] > 250).all() and crop[:14].max() < 5
    points = np.array([[0.1, -0.2, 2.0], [0.0, 0.3, 1.5]])
    through_image = apply_affine(person.affine(64), project(points, person.intrinsics))
    np.testing.assert_allclose(project(points, person.crop_intrinsics(64)), through_image)
