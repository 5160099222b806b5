import cv2
import numpy as np
import pytest

from adhmr.data.shard_reader import decode_jpeg


def picture(height, width, channels=3):
    rng = np.random.default_rng(height)
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, channels), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("size", [(64, 64), (81, 97), (384, 283)])
@pytest.mark.parametrize("options", [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_QUALITY, 40]])
def test_pixels_are_those_that_opencv_decodes(size, options):
    data = cv2.imencode(".jpg", picture(*size), options)[1].tobytes()
    expected = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    image = decode_jpeg(data)
    assert image.shape == (*size, 3) and image.dtype == np.uint8 and image.flags.writeable
    assert np.abs(image.astype(int) - expected).max() <= 1  # the same libjpeg-turbo gives 0; versions may round


def test_a_grey_image_has_three_equal_channels():
    image = decode_jpeg(cv2.imencode(".jpg", picture(40, 56, 1))[1].tobytes())
    assert image.shape == (40, 56, 3)
    np.testing.assert_array_equal(image, image[..., :1].repeat(3, -1))


def test_what_is_not_a_whole_jpeg_is_refused():
    whole = cv2.imencode(".jpg", picture(64, 64))[1].tobytes()
    for data in (
        b"",
        b"no image",
        whole[:40],
        whole[: len(whole) // 2],
        cv2.imencode(".png", picture(8, 8))[1].tobytes(),
    ):
        with pytest.raises(ValueError):
            decode_jpeg(data)
