import numpy as np
import pytest
from PIL import Image

from adhmr.errors import AdhmrError
from adhmr.inference.images import find_images, image_size, read_image


@pytest.fixture
def picture() -> np.ndarray:
    """20 high, 30 wide; the left upper corner is red."""
    image = np.full((20, 30, 3), 90, np.uint8)
    image[:10, :10] = 255, 0, 0
    return image


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright(tmp_path, picture, orientation):
    """Whatever way the camera stored it, the picture is the one that a viewer shows."""
    turns = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 1, 7: 3, 8: 3}[orientation]
    stored = np.rot90(picture, turns)  # counter-clockwise; EXIF says how to turn it back
    if orientation in (2, 4, 5, 7):
        stored = stored[:, ::-1] if orientation in (2, 4) else stored[::-1]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    assert image_size(tmp_path / "a.png") == (30, 20)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), picture)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_every_picture_becomes_rgb(tmp_path, picture, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.fromarray(picture).convert(mode).save(path)
    image = read_image(path)
    assert image.shape == (20, 30, 3) and image.dtype == np.uint8
    assert abs(int(image[15, 25, 1]) - 90) < 15  # a palette has few colours


def test_files_and_folders(tmp_path, picture):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("b.JPG", "a.png", "c.jpeg", "notes.txt"):
        Image.fromarray(picture).save(folder / name, format="png")
    (folder / "deeper").mkdir()
    single = tmp_path / "z.webp"
    single.touch()
    found = find_images([single, folder])
    assert [path.name for path in found] == ["z.webp", "a.png", "b.JPG", "c.jpeg"]
    with pytest.raises(AdhmrError, match=r"deeper: holds no image; expected files that end in .jpg"):
        find_images([folder / "deeper"])
    with pytest.raises(AdhmrError, match=r"gone.jpg: no such image or folder"):
        find_images([tmp_path / "gone.jpg"])
    with pytest.raises(AdhmrError, match=r"a.png: goes by the name 'a' as .*a.png does"):
        find_images([folder, folder / "a.png"])


def test_unreadable_files_are_named(tmp_path, picture):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (200, 300, 3), np.uint8)).save(tmp_path / "cut.jpg")
    data = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    assert image_size(tmp_path / "cut.jpg") == (300, 200)
    with pytest.raises(AdhmrError, match=r"cut.jpg: cannot be read as an image \(.*truncated"):
        read_image(tmp_path / "cut.jpg")
    (tmp_path / "text.png").write_text("no picture")
    for function in (image_size, read_image):
        with pytest.raises(AdhmrError, match=r"text.png: cannot be read as an image .*expected a whole JPEG or PNG"):
            function(tmp_path / "text.png")
