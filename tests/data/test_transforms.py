import cv2
import numpy as np
import pytest

from adhmr.body.camera import crop_affine, joints_from_uvd, uvd_from_joints
from adhmr.body.skeleton import FLIP_JOINTS
from adhmr.config.data import AugmentConfig, CropConfig, DataSetConfig
from adhmr.data.randomness import RandomKey
from adhmr.data.schema import RawSample, mirror
from adhmr.data.shard_reader import CorruptSampleError
from adhmr.data.transforms import PersonCrop, square_affine, warp

STRONG = AugmentConfig(
    scale=0.3, rotation_degrees=40, rotation_probability=1, colour=0, occlusion_probability=0, shift=0.1
)


def raw_sample(record, image=None):
    height, width = (int(size) for size in record["image_size"])
    image = np.zeros((height, width, 3), np.uint8) if image is None else image
    return RawSample("set", "person", image, record)


def draw_dot(width, height, x, y, radius=3.0):
    """An anti-aliased white disc at continuous pixel coordinates."""
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    disc = np.clip(radius + 0.5 - np.hypot(columns - x, rows - y), 0, 1)
    return np.repeat((disc * 255).astype(np.uint8)[..., None], 3, -1)


def centre_of_mass(image):
    weight = image[0].astype(np.float64)  # (S, S)
    grid = np.arange(weight.shape[0]) + 0.5
    return np.array([(weight.sum(0) * grid).sum(), (weight.sum(1) * grid).sum()]) / weight.sum()


@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize("augment", [None, STRONG], ids=["plain", "augmented"])
def test_pixels_land_where_their_labels_say(make_record, size, augment):
    """A dot drawn at a joint is found at the transformed joint, under scale, rotation, shift and flip."""
    crop = PersonCrop(CropConfig(size=size, padding=1.5), augment)
    flips = 0
    for number in range(16):
        record = make_record(np.random.default_rng(number))
        record["image_size"] = (300, 340)
        record["joints29_px"] = np.random.default_rng(number).uniform(60, 240, (29, 2))
        record["joints29_px"][20] = (151.3, 148.7)  # inside every crop
        item = crop(raw_sample(record, draw_dot(340, 300, 151.3, 148.7)), RandomKey(0, number))
        flipped = bool(item["transl"][0] != record["transl"][0])
        label = item["uvd"][FLIP_JOINTS[20] if flipped else 20, :2]
        assert np.linalg.norm(label - centre_of_mass(item["image"])) < 0.3
        flips += flipped
    assert flips == 0 if augment is None else 0 < flips < 16


@pytest.mark.parametrize("augment", [None, STRONG], ids=["plain", "augmented"])
def test_a_tall_crop_is_the_middle_of_the_square_one(make_record, augment):
    """Of a person taller than three fourths, the tall crop shows the same at the same scale, with the sides cut off."""
    square = PersonCrop(CropConfig(size=128, padding=1.2), augment)
    tall = PersonCrop(CropConfig(size=128, padding=1.2, aspect=0.75), augment)
    for number in range(8):
        rng = np.random.default_rng(number)
        record = make_record(rng)
        record["image_size"] = (300, 340)
        record["joints29_px"] = np.stack([rng.uniform(140, 200, 29), rng.uniform(60, 240, 29)], -1)
        sample = raw_sample(record, rng.integers(0, 256, (300, 340, 3), np.uint8))
        whole, middle = square(sample, RandomKey(0, number)), tall(sample, RandomKey(0, number))
        assert middle["image"].shape == (3, 128, 96)
        difference = np.abs(middle["image"].astype(int) - whole["image"][:, :, 16:112])
        assert np.mean(difference > 2) < 0.01  # OpenCV's fixed-point weights differ a little
        np.testing.assert_allclose(middle["uvd"] - whole["uvd"], np.float32([[-16, 0, 0]] * 29), atol=1e-3)
        joints = joints_from_uvd(middle["uvd"], middle["intrinsics"], middle["root_depth"])
        expected = joints_from_uvd(whole["uvd"], whole["intrinsics"], whole["root_depth"])
        np.testing.assert_allclose(joints, expected, atol=1e-4)


def test_a_wide_person_fits_into_a_tall_crop(make_record):
    record = make_record(np.random.default_rng(0))
    record["image_size"] = (300, 340)
    record["joints29_px"] = np.random.default_rng(0).uniform([60, 140], [260, 160], (29, 2))
    item = PersonCrop(CropConfig(size=128, padding=1.2, aspect=0.75))(raw_sample(record), RandomKey(0, 0))
    spread = np.ptp(item["uvd"][:24, 0])
    assert spread == pytest.approx(96 / 1.2, abs=0.01)  # its width fills the crop but for the padding


def test_the_crop_carries_the_camera_and_gives_back_the_joints(make_record):
    for number in range(10):
        record = make_record(np.random.default_rng(number))
        item = PersonCrop(CropConfig(size=128), STRONG)(raw_sample(record), RandomKey(1, number))
        joints = joints_from_uvd(item["uvd"], item["intrinsics"], np.float32(item["root_depth"]))
        flipped = item["transl"][0] != record["transl"][0]
        expected = mirror(record) if flipped else record
        np.testing.assert_allclose(joints, expected["joints29"], atol=2e-4)
        np.testing.assert_allclose(item["uvd"], uvd_from_joints(expected["joints29"], item["intrinsics"]), atol=0.02)
        np.testing.assert_array_equal(item["pose"], expected["pose"])


def test_without_augmentation_the_box_is_the_padded_square_of_the_joints(make_record):
    record = make_record(np.random.default_rng(0))
    item = PersonCrop(CropConfig(size=100, padding=1.25))(raw_sample(record), RandomKey(0, 0))
    points = item["uvd"][:24, :2]
    extent = points.max(0) - points.min(0)
    assert extent.max() == pytest.approx(80, abs=1e-3)
    np.testing.assert_allclose((points.max(0) + points.min(0)) / 2, 50, atol=1e-3)


def test_unknown_labels_have_no_weight_and_no_value(make_record):
    record = make_record(np.random.default_rng(0))
    record["has_depth"] = record["has_pose"] = record["has_twists"] = record["has_betas"] = record["has_joints17"] = 0
    record["joints29"] = record["pose"] = record["twists"] = record["betas"] = record["joints17"] = np.nan
    record["joints_conf"][24:], record["joints29_px"][24:] = 0, np.nan
    item = PersonCrop(CropConfig())(raw_sample(record), RandomKey(0, 0))
    assert all(np.isfinite(item[name]).all() for name in item if name not in ("dataset", "key"))
    assert item["uvd_weight"][:24, :2].min() > 0 and item["uvd_weight"][24:].max() == 0
    assert item["uvd_weight"][:, 2].max() == 0 and item["twist_weight"].max() == 0
    assert item["betas_weight"] == item["has_pose"] == item["root_depth"] == item["has_joints17"] == 0


def of_set(**settings):
    return [DataSetConfig(path="data/another"), DataSetConfig(path="data/set", **settings)]


def test_a_set_supervises_only_the_labels_that_it_names(make_record):
    sample = raw_sample(make_record(np.random.default_rng(0)))
    everything = PersonCrop(CropConfig())(sample, RandomKey(0, 0))
    weights = {
        "depth": lambda item: item["uvd_weight"][:24, 2],
        "leaves": lambda item: item["uvd_weight"][24:, :2],
        "twists": lambda item: item["twist_weight"],
        "betas": lambda item: np.float32(item["betas_weight"]),
    }
    for supervised in ([], ["depth"], ["leaves"], ["twists"], ["betas"], ["depth", "betas"], None):
        item = PersonCrop(CropConfig(), None, of_set(labels=supervised))(sample, RandomKey(0, 0))
        for name, weight in weights.items():
            kept = supervised is None or name in supervised
            np.testing.assert_array_equal(weight(item), weight(everything) * kept)
        both = supervised is None or {"leaves", "depth"} <= set(supervised)
        np.testing.assert_array_equal(item["uvd_weight"][24:, 2], everything["uvd_weight"][24:, 2] * both)
        np.testing.assert_array_equal(item["uvd_weight"][:24, :2], everything["uvd_weight"][:24, :2])
        # The pose that is disturbed by the diffusion stays whole: only losses leave it out.
        for name in ("uvd", "twists", "betas", "image"):
            np.testing.assert_array_equal(item[name], everything[name])


def test_a_set_may_have_its_own_padding_and_occlusion(make_record):
    sample = raw_sample(make_record(np.random.default_rng(0)))
    item = PersonCrop(CropConfig(padding=1.5), None, of_set(padding=1.2))(sample, RandomKey(0, 0))
    same = PersonCrop(CropConfig(padding=1.2))(sample, RandomKey(0, 0))
    np.testing.assert_array_equal(item["uvd"], same["uvd"])
    still = {"scale": 0, "rotation_probability": 0, "flip_probability": 0, "colour": 0}
    for everywhere, here in ((0.0, 1.0), (1.0, 0.0)):
        augment = AugmentConfig(**still, occlusion_probability=everywhere)
        crop = PersonCrop(CropConfig(), augment, of_set(occlusion_probability=here))
        touched = [crop(sample, RandomKey(0, number))["image"].any() for number in range(20)]  # the image is black
        assert (sum(touched) > 15) if here else not any(touched)


def test_samples_of_an_unknown_set_are_refused_where_sets_have_settings(make_record):
    crop = PersonCrop(CropConfig(), None, [DataSetConfig(path="data/another")])
    with pytest.raises(KeyError, match="set"):
        crop(raw_sample(make_record(np.random.default_rng(0))), RandomKey(0, 0))


def test_samples_that_cannot_be_cropped_are_corrupt(make_record):
    record = make_record(np.random.default_rng(0))
    record["joints_conf"] = 0
    with pytest.raises(CorruptSampleError, match="no body joint"):
        PersonCrop(CropConfig())(raw_sample(record), RandomKey(0, 0))
    record = make_record(np.random.default_rng(0))
    record["twists"][3] = np.nan
    with pytest.raises(CorruptSampleError, match="twists is not finite"):
        PersonCrop(CropConfig())(raw_sample(record), RandomKey(0, 0))


def test_augmentation_depends_on_the_key_alone(make_record):
    rng = np.random.default_rng(0)
    record = make_record(rng)
    sample = raw_sample(record, rng.integers(0, 256, (80, 96, 3), np.uint8))
    before = sample.image.copy()
    crop = PersonCrop(CropConfig(size=64), AugmentConfig(occlusion_probability=1))
    one, same, other = (crop(sample, RandomKey(0, position)) for position in (4, 4, 5))
    np.testing.assert_array_equal(one["image"], same["image"])
    assert (one["image"] != other["image"]).any() and (one["uvd"] != other["uvd"]).any()
    np.testing.assert_array_equal(sample.image, before)
    assert one["image"].shape == (3, 64, 64) and one["image"].dtype == np.uint8


def test_colour_and_occlusion_stay_in_their_bounds(make_record):
    record = make_record(np.random.default_rng(0))
    sample = raw_sample(record, np.full((80, 96, 3), 100, np.uint8))
    colour = AugmentConfig(scale=0, rotation_probability=0, flip_probability=0, colour=0.2, occlusion_probability=0)
    middles = [PersonCrop(CropConfig(), colour)(sample, RandomKey(0, n))["image"][:, 64, 64] for n in range(30)]
    assert np.min(middles) >= 80 and np.max(middles) <= 120 and np.ptp(middles) > 20
    occlude = colour.model_copy(update={"colour": 0.0, "occlusion_probability": 1.0})
    sample.image[:] = 255
    plain = PersonCrop(CropConfig())(sample, RandomKey(0, 0))["image"]
    parts = []
    for number in range(100):
        image = PersonCrop(CropConfig(), occlude)(sample, RandomKey(0, number))["image"]
        parts.append((image != plain).any(0).sum() / (128 / 1.5) ** 2)
    assert 0.05 < np.mean(parts) < 0.2 and np.max(parts) <= 0.33


def test_shrinking_averages_instead_of_picking_pixels():
    """A fine checkerboard becomes grey, not a moire of black and white."""
    board = (np.indices((384, 384)).sum(0) % 2 * 255).astype(np.uint8)
    small = warp(np.repeat(board[..., None], 3, -1), square_affine(np.array([192.0, 192.0]), 384.0, 0.1, 96), (96, 96))
    inner = small[:, 20:76, 20:76].astype(int)
    assert np.abs(inner - 127).max() < 12


def test_a_flip_within_the_warp_shows_the_flipped_image():
    """Also of an image whose width is odd, and of one that is shrunk first."""
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (24, 26, 3), np.uint8), (205, 190))
    for side in (90.0, 400.0):
        affine = square_affine(np.array([100.0, 90.0]), side, 0.3, 64)
        flipped = affine @ [[-1.0, 0.0, 205.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
        difference = np.abs(warp(image, flipped, (64, 64)).astype(int) - warp(cv2.flip(image, 1), affine, (64, 64)))
        assert difference.max() <= 2


def test_square_affine_is_the_bodys_crop_affine():
    rng = np.random.default_rng(0)
    for _ in range(5):
        centre, side, angle = rng.uniform(20, 200, 2), rng.uniform(40, 300), rng.uniform(-2, 2)
        expected = crop_affine(centre, np.float64(side), np.float64(angle), size=128)
        np.testing.assert_allclose(square_affine(centre, side, angle, 128), expected, atol=1e-9)
