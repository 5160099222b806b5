from dataclasses import replace

import numpy as np
import pytest

from adhmr.data.synthetic.person import ACCENT, HAIR, PUPIL, TOP, Light
from adhmr.data.synthetic.sets import DOMAINS, HELD_OUT_PHOTOS, TRAIN_PHOTOS, domain
from adhmr.data.synthetic.studio import Studio
from adhmr.errors import AdhmrError
from adhmr.visualization.rasterizer import Rasterizer

FACE_ON = np.diag([1.0, -1.0, -1.0]).astype(np.float32)  # y up, facing +z -> camera axes, facing the camera
FACE_AWAY = np.diag([-1.0, -1.0, 1.0]).astype(np.float32)


@pytest.fixture(scope="module")
def studios():
    return {name: Studio(name, "val", 96) for name in ("synth-studio", "synth-game", "synth-wild", "synth-bench")}


@pytest.mark.parametrize("name", DOMAINS)
def test_joints_lie_on_the_drawn_person(studios, name):
    """The last drawing's silhouette is still in the rasterizer when a sample comes out."""
    studio, inside, fills = studios[name], [], []
    for image, _, truth, _ in studio.samples(seed=3, first=0, count=25):
        assert image.shape == (96, 96, 3) and image.dtype == np.uint8
        mask = studio.rasterizer.mask()
        columns, rows = np.floor(truth["joints29_px"]).astype(int).T
        assert ((columns >= 0) & (columns < 96) & (rows >= 0) & (rows < 96)).all()
        inside.append(mask[rows, columns].mean())
        seen = np.argwhere(mask)
        fills.append(np.ptp(seen, axis=0).max() / 96)
        assert truth["joints29"][:, 2].min() > 0.3
    assert np.mean(inside) > 0.85
    assert min(fills) > 0.5 and max(fills) < 0.95


def test_the_person_differs_from_the_background(studios):
    studio = studios["synth-studio"]
    for image, _, _, _ in studio.samples(seed=5, first=0, count=10):
        mask = studio.rasterizer.mask()
        assert np.abs(image[mask].mean(axis=0) - image[~mask].mean(axis=0)).max() > 5
        assert image[mask].std() > image[~mask].std() * 0.3


def test_a_sample_depends_on_its_number_only(studios):
    studio = studios["synth-game"]
    together = list(studio.samples(seed=1, first=0, count=4))
    alone = next(iter(studio.samples(seed=1, first=0, count=1)))
    np.testing.assert_array_equal(together[0][0], alone[0])
    assert together[0][2] == alone[2]
    assert not np.array_equal(together[0][0], together[1][0])
    other_seed = next(iter(studio.samples(seed=2, first=0, count=1)))
    assert not np.array_equal(other_seed[0], alone[0])


def test_views_are_mostly_frontal(studios):
    """The hips tell: the left one is right in the picture when the person faces the camera."""
    for name, least in (("synth-studio", 0.9), ("synth-bench", 0.8)):
        records = studios[name]._people(0, range(50))[3]
        facing = records["joints29"][:, 1, 0] > records["joints29"][:, 2, 0]
        assert facing.mean() >= least


def materials_seen(studio, view, outfit):
    """Subpixels of some materials on the resting body, found by painting one material at a time."""
    vertices = (studio.body.v_template.numpy() @ view.T + np.float32([0, 0, 5])).astype(np.float32)
    rasterizer = Rasterizer(studio.body.faces, (96, 96))
    rasterizer.draw(vertices, np.array([[220.0, 0, 48], [0, 220.0, 48], [0, 0, 1]]))
    flat = Light(np.array([0.0, -1.0, 0.0]), np.zeros(3), np.full(3, 0.5))
    seen = {}
    for material in (HAIR, TOP, ACCENT, PUPIL):
        palette = np.zeros_like(outfit.palette)
        palette[material] = 1.0
        studio.painter.paint(rasterizer, vertices, replace(outfit, palette=palette), flat)
        seen[material] = int((rasterizer.colours[..., 0] > 1).sum())
    return seen


def test_front_and_back_always_look_different(studios):
    studio = studios["synth-studio"]
    for seed in range(20):
        outfit = studio.painter.dress(np.random.default_rng(seed))
        front, back = materials_seen(studio, FACE_ON, outfit), materials_seen(studio, FACE_AWAY, outfit)
        assert front[PUPIL] > 0 and back[PUPIL] == 0
        assert front[ACCENT] > 20 and back[ACCENT] == 0
        assert back[HAIR] > 1.1 * front[HAIR] > 0
        assert front[TOP] > 20 and back[TOP] > 100
        contrast = outfit.palette[ACCENT] - outfit.palette[TOP]
        assert np.abs(contrast).max() > 0.15


def test_the_bench_shares_no_photograph_with_training():
    assert not set(TRAIN_PHOTOS) & set(HELD_OUT_PHOTOS)
    for split in ("val", "test"):
        assert not set(domain("synth-bench", split).photos) & set(DOMAINS["synth-wild"].photos)
    assert set(domain("synth-bench", "train").photos) == set(TRAIN_PHOTOS)


def test_unknown_names_and_splits_are_clear_errors():
    with pytest.raises(AdhmrError, match="synth-studio"):
        domain("synth-moon", "train")
    with pytest.raises(AdhmrError, match="train, val, test"):
        domain("synth-bench", "trial")
