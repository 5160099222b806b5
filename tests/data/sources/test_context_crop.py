"""The stored crop: pixels are copied where nothing is scaled, scaled like the network's crop otherwise, and the
record's pixels and camera move along, however small the image was decoded."""

import cv2
import numpy as np
import pytest
import simplejpeg

from adhmr.data.schema import new_record
from adhmr.data.sources.context_crop import ContextCrop
from adhmr.data.sources.image_file import ImageFile
from adhmr.data.transforms import warp

SHAPE = (1080, 1920)


@pytest.fixture(scope="module")
def smooth() -> np.ndarray:
    """(1080, 1920, 3) in which red says x and green says y: 8 pixels a grey level, blue is a slow wave."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    return np.stack([x / 8, y / 8, 128 + 80 * np.sin(x / 90) * np.cos(y / 70)], -1).astype(np.uint8)


@pytest.fixture(scope="module")
def photo(smooth, tmp_path_factory) -> ImageFile:
    path = tmp_path_factory.mktemp("photo") / "smooth.jpg"
    path.write_bytes(simplejpeg.encode_jpeg(smooth, quality=98, colorsubsampling="444"))
    return ImageFile(path)


def record_at(low: tuple[float, float], high: tuple[float, float]) -> np.void:
    record = new_record()
    record["joints29_px"] = np.linspace(low, high, 29)
    record["joints29_px"][:24] = np.linspace(low, high, 24)
    record["joints_conf"] = 1
    record["joints29"][:, 2] = 3.0
    record["intrinsics"] = [[1500, 0, 960], [0, 1500, 540], [0, 0, 1]]
    return record


def test_a_small_crop_copies_pixels(smooth):
    crop = ContextCrop(side=384, context=2.0)
    box = crop.box(record_at((500.3, 300.2), (560.1, 420.9)), SHAPE)
    assert box[2] == 242 and box[0].is_integer() and box[1].is_integer()
    made = crop.cut(smooth, 1.0, box)
    x, y = int(box[0]), int(box[1])
    np.testing.assert_array_equal(made, smooth[y : y + 242, x : x + 242])


def test_outside_the_image_is_black(smooth):
    crop = ContextCrop()
    for box in ((-100.0, -50.0, 300.0), (-300.0, -200.0, 900.0)):
        made = crop.cut(smooth, 1.0, box)
        edge = int(-box[0] * crop.scale(box[2])) - 1
        assert (made[:, :edge] == 0).all() and made[-20:, -20:].min() > 0
    corner = crop.cut(smooth, 1.0, (1800.0, 1000.0, 300.0))
    assert (corner[:, 121:] == 0).all() and (corner[81:] == 0).all() and corner[:79, :119].max() > 200


@pytest.mark.parametrize("side", [400, 507, 701, 768, 1000, 1201, 1536, 2400])
def test_every_pixel_is_where_the_affine_says(side, smooth, photo):
    """Also where the JPEG was decoded at a half or a quarter: 768 and 1536 are then exactly 384."""
    crop = ContextCrop()
    box = (400.0, 37.0, float(side))
    image, shrunk = photo.pixels(crop.scale(side))
    assert shrunk >= crop.scale(side) and shrunk in (1.0, 0.5, 0.25)
    affine = crop.affine(box)
    expected = warp(smooth, affine, (384, 384)).transpose(1, 2, 0).astype(int)
    inside = warp(np.full_like(smooth, 255), affine, (384, 384)).min(0) == 255
    inside = cv2.erode(inside.astype(np.uint8), np.ones((7, 7))).astype(bool)
    made = crop.cut(image, shrunk, box).astype(int)
    # One level of red or green is eight pixels of the image.
    assert np.abs(made - expected)[inside].max() <= 3
    assert np.abs((made - expected)[inside].mean(0)).max() < 0.6


def test_a_crop_that_is_scaled_is_not_dark_at_its_edges():
    bright = np.full((1200, 1200, 3), 200, np.uint8)
    for side in (500.0, 701.0, 999.0):
        made = ContextCrop().cut(bright, 1.0, (100.0, 100.0, side))
        assert (made == 200).all()


def test_labels_move_with_the_pixels():
    crop = ContextCrop()
    record = record_at((300, 100), (800, 900))
    record["joints29"][:, :2] = (record["joints29_px"] - [960, 540]) * 3.0 / 1500
    box = crop.box(record, SHAPE)
    moved = crop.moved(record, box)
    scale = 384 / box[2]
    np.testing.assert_allclose(moved["joints29_px"], (record["joints29_px"] - box[:2]) * scale, atol=1e-4)
    points = moved["joints29"] @ moved["intrinsics"].T
    np.testing.assert_allclose(points[:, :2] / points[:, 2:], moved["joints29_px"], atol=1e-3)
    assert moved["image_size"].tolist() == [384, 384]


def test_boxes_that_cannot_be_cut():
    crop = ContextCrop()
    assert crop.box(record_at((-900, -900), (-100, -100)), SHAPE) == "too few of its joints are in the picture"
    assert crop.box(record_at((100, 100), (110, 120)), SHAPE) == "it is too small in the picture"


def test_a_joint_far_outside_does_not_make_the_crop_black():
    record = record_at((800, 200), (1000, 1000))
    record["joints29_px"][7] = (900, 9000)
    assert ContextCrop().box(record, SHAPE)[2] < 2500


def test_sizes_that_do_not_divide_are_decoded_whole(tmp_path):
    path = tmp_path / "odd.jpg"
    path.write_bytes(simplejpeg.encode_jpeg(np.zeros((501, 799, 3), np.uint8)))
    assert ImageFile(path).pixels(0.1)[1] == 1.0


@pytest.mark.parametrize("name", ["grey.jpg", "grey.png", "alpha.png", "deep.png"])
def test_other_kinds_of_images_are_read_as_rgb(name, tmp_path):
    values = np.tile(np.arange(100, dtype=np.uint8), (50, 1))
    if name == "alpha.png":
        values = np.dstack([values] * 4)
    elif name == "deep.png":
        values = values.astype(np.uint16) * 256
    cv2.imwrite(str(tmp_path / name), values)
    file = ImageFile(tmp_path / name)
    image, _ = file.pixels(1.0)
    assert file.size == (50, 100) and image.shape == (50, 100, 3) and image.dtype == np.uint8
    assert np.abs(image.astype(int) - np.arange(100)[None, :, None]).max() <= 3
