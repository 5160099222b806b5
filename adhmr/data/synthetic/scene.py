"""What surrounds a synthetic person: the camera, the light, the background, things in front, and the sensor.

Every function draws from the generator it is given and from nothing else. Pictures are (S, S, 3) uint8 RGB.
"""

from functools import cache
from importlib.resources import files

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from adhmr.data.synthetic.person import Light
from adhmr.data.synthetic.sets import DomainSpec
from adhmr.errors import AdhmrError

PHOTO_SIDE = 512  # pixels; photographs are shrunk to this once


def view_rotation(rng: np.random.Generator, spec: DomainSpec) -> Rotation:
    """From a person who faces +z, y up, to camera axes: yaw about the person, then pitch and roll of the camera."""
    if rng.random() < spec.yaw_uniform_share:
        yaw = rng.uniform(-180.0, 180.0)
    else:
        yaw = rng.normal(0.0, spec.yaw_spread)
        while abs(yaw) > spec.yaw_limit:
            yaw = rng.normal(0.0, spec.yaw_spread)
    pitch, roll = rng.normal(*spec.pitch), rng.normal(0.0, spec.roll)
    turn = Rotation.from_rotvec([0.0, np.radians(yaw), 0.0])
    tilt = Rotation.from_rotvec([pitch, 0.0, roll])
    to_camera = Rotation.from_rotvec([np.pi, 0.0, 0.0])  # y up, z towards the viewer -> y down, z forward
    return to_camera * tilt * turn


def place_person(
    rng: np.random.Generator, spec: DomainSpec, vertices: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Camera and position for vertices (V, 3), metres, camera axes about the model's own origin.

    Returns:
        translation (3,) metres and intrinsics (3, 3): the person's box has the drawn share of the image side.
    """
    focal, fill = rng.uniform(*spec.focal) * size, rng.uniform(*spec.fill)
    shift = rng.normal(0.0, 0.25, 2).clip(-0.5, 0.5) * (1.0 - fill) * size  # pixels; the box stays inside
    columns = np.ascontiguousarray(vertices.T, np.float64)  # (3, V): minima over long rows are ten times faster
    low, high = columns.min(axis=1), columns.max(axis=1)
    middle = (low + high) / 2
    extent = (high - low)[:2].max()
    depth = focal * extent / (fill * size)
    translation = np.array([0.0, 0.0, depth]) - middle
    for _ in range(2):  # perspective makes near parts larger: correct by what is really seen
        points = columns + translation[:, None]
        pixels = focal * points[:2] / points[2]
        low, high = pixels.min(axis=1), pixels.max(axis=1)
        depth *= (high - low).max() / (fill * size)
        centre = ((low + high) / 2 - shift) / focal  # slope of the ray to move back
        translation[:2] -= centre * depth
        translation[2] = depth - middle[2]
    intrinsics = np.array([[focal, 0.0, size / 2], [0.0, focal, size / 2], [0.0, 0.0, 1.0]])
    return translation, intrinsics


def draw_light(rng: np.random.Generator, spec: DomainSpec) -> Light:
    """One lamp above and before the person, and light from all around."""
    direction = rng.normal(0.0, 1.0, 3)
    direction[1] = -abs(direction[1]) - 0.3
    direction[2] = -abs(direction[2]) - 0.1
    tint = rng.uniform(0.88, 1.1, 3)
    key, ambient = rng.uniform(*spec.key_light), rng.uniform(*spec.ambient_light)
    return Light(direction / np.linalg.norm(direction), key * tint, ambient / tint)


def _plain(rng: np.random.Generator, spec: DomainSpec, size: int) -> np.ndarray:
    colour = rng.uniform(30, 235) + rng.uniform(-25, 25, 3)
    return np.broadcast_to(colour.clip(0, 255), (size, size, 3)).astype(np.float32)


def _gradient(rng: np.random.Generator, spec: DomainSpec, size: int) -> np.ndarray:
    """A backdrop lit from somewhere, over a floor that may be of another shade."""
    base = rng.uniform(40, 225) + rng.uniform(-40, 40, 3)
    ramp = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    slope_x, slope_y = rng.uniform(-70, 70, 2)
    level = slope_x * ramp[None, :] + slope_y * ramp[:, None]
    picture = base + level[..., None]
    if rng.random() < 0.5:
        horizon = int(rng.uniform(0.6, 0.9) * size)
        picture[horizon:] += rng.uniform(-45, 45)
    return picture.astype(np.float32)


def _room(rng: np.random.Generator, spec: DomainSpec, size: int) -> np.ndarray:
    """Floor and wall, each plain or patterned, and some boxes."""
    horizon = int(rng.uniform(0.35, 0.75) * size)
    wall, floor = rng.uniform(20, 235, 3), rng.uniform(20, 220, 3)
    picture = np.empty((size, size, 3), np.float32)
    picture[:horizon] = wall
    columns = np.arange(size, dtype=np.float32)
    if rng.random() < 0.4:  # wall paper
        stripes = np.floor(columns / rng.uniform(0.05, 0.2) / size) % 2
        picture[:horizon] += (stripes * rng.uniform(-40, 40))[None, :, None]
    picture[horizon:] = floor
    rows = np.arange(1, size - horizon + 1, dtype=np.float32)[:, None] / size
    if rng.random() < 0.7:  # tiles in perspective
        across = (columns[None, :] / size - rng.uniform(0.2, 0.8)) / (rows + 0.1) * rng.uniform(1.0, 3.0)
        along = rng.uniform(0.3, 1.2) / (rows + 0.1)
        tiles = (np.floor(across) + np.floor(along)) % 2
        picture[horizon:] += (tiles * rng.uniform(-50, 50))[..., None]
    picture[horizon:] *= (0.75 + 0.35 * rows / rows[-1])[..., None]
    for _ in range(rng.integers(0, 5)):
        _box(rng, picture, horizon, size)
    return picture


def _box(rng: np.random.Generator, picture: np.ndarray, horizon: int, size: int) -> None:
    width, height, skew = rng.uniform(0.08, 0.3) * size, rng.uniform(0.08, 0.45) * size, rng.uniform(-0.08, 0.08) * size
    left, foot = rng.uniform(-0.1, 0.95) * size, horizon + rng.uniform(0.0, 0.25) * size
    colour = rng.uniform(15, 240, 3)
    front = [[left, foot], [left + width, foot], [left + width, foot - height], [left, foot - height]]
    back = foot - height - abs(skew)
    top = [front[3], front[2], [left + width + skew, back], [left + skew, back]]
    edge = 1 if skew > 0 else 0
    side = [front[edge], front[3 - edge], top[3 - edge], [front[edge][0] + skew, foot - abs(skew)]]
    for shade, corners in ((1.2, top), (0.7, side), (1.0, front)):
        cv2.fillPoly(picture, [np.round(corners).astype(np.int32)], (colour * shade).clip(0, 255).tolist())


def _clutter(rng: np.random.Generator, spec: DomainSpec, size: int) -> np.ndarray:
    """Coloured noise at several scales, with shapes."""
    picture = np.full((size, size, 3), 0.0, np.float32) + rng.uniform(20, 120, 3).astype(np.float32)
    for cells in (2, 4, 9, 40):
        noise = rng.random((cells, cells, 3), np.float32)
        picture += cv2.resize(noise, (size, size), interpolation=cv2.INTER_LINEAR) * np.float32(120.0 / cells**0.5)
    for _ in range(rng.integers(0, 6)):
        centre = rng.integers(0, size, 2).tolist()
        half = rng.integers(size // 16, size // 4, 2).tolist()
        colour = rng.uniform(0, 255, 3).tolist()
        if rng.random() < 0.5:
            cv2.ellipse(picture, centre, half, float(rng.uniform(0, 180)), 0, 360, colour, -1)
        else:
            corner = [c + h for c, h in zip(centre, half, strict=True)]
            cv2.rectangle(picture, centre, corner, colour, -1)
    return picture


@cache
def _photo(name: str) -> np.ndarray:
    """A picture of scikit-image's own data folder (nothing is fetched), RGB, at most PHOTO_SIDE a side."""
    path = files("skimage") / "data" / name
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise AdhmrError(f"{path}: cannot read this background; install scikit-image as in requirements.txt")
    scale = PHOTO_SIDE / max(picture.shape[:2])
    if scale < 1.0:
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(picture[..., ::-1])


def _photograph(rng: np.random.Generator, spec: DomainSpec, size: int) -> np.ndarray:
    photo = _photo(spec.photos[rng.integers(len(spec.photos))])
    height, width = photo.shape[:2]
    side = int(rng.uniform(0.35, 1.0) * min(height, width))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    crop = photo[top : top + side, left : left + side]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    picture = cv2.resize(np.ascontiguousarray(crop), (size, size), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    return picture * rng.uniform(0.65, 1.2, 3).astype(np.float32) + np.float32(rng.uniform(-25, 25))


BACKGROUNDS = {"plain": _plain, "gradient": _gradient, "room": _room, "clutter": _clutter, "photo": _photograph}


def draw_background(rng: np.random.Generator, spec: DomainSpec, size: int) -> np.ndarray:
    """(size, size, 3) uint8."""
    kinds, weights = zip(*spec.backgrounds.items(), strict=True)
    kind = rng.choice(len(kinds), p=np.asarray(weights) / sum(weights))
    picture = BACKGROUNDS[kinds[kind]](rng, spec, size)
    if rng.random() < 0.4:  # out of focus
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.5, 2.0) * size / 192)
    return picture.clip(0, 255).astype(np.uint8)


def draw_shadow(rng: np.random.Generator, background: np.ndarray, feet_px: np.ndarray) -> np.ndarray:
    """Darkens the ground below the feet feet_px (F, 2)."""
    size = len(background)
    low, high = feet_px.min(axis=0), feet_px.max(axis=0)
    half = (int((high[0] - low[0]) / 2 + rng.uniform(0.03, 0.08) * size), int((high[1] - low[1]) / 4 + 0.02 * size) + 1)
    centre = (int((low[0] + high[0]) / 2), int(high[1] + 0.01 * size))
    veil = np.zeros((size, size), np.float32)
    cv2.ellipse(veil, centre, half, 0.0, 0, 360, float(rng.uniform(0.2, 0.6)), -1)
    veil = cv2.GaussianBlur(veil, (0, 0), 0.015 * size)
    return (background * (1.0 - veil[..., None])).astype(np.uint8)


def draw_occluders(rng: np.random.Generator, spec: DomainSpec, image: np.ndarray, joints_px: np.ndarray) -> None:
    """Puts things before the person, in place: boxes, posts or blobs near joints_px (J, 2)."""
    size = len(image)
    for _ in range(rng.choice(len(spec.occluder_odds), p=spec.occluder_odds)):
        target = joints_px[rng.integers(len(joints_px))] + rng.normal(0.0, 0.06 * size, 2)
        half = rng.uniform(0.04, 0.13, 2) * size
        if rng.random() < 0.25:  # a post
            half = np.array([rng.uniform(0.02, 0.05), rng.uniform(0.3, 1.0)]) * size
        stuff = draw_background(rng, spec, size)
        mask = np.zeros((size, size), np.uint8)
        centre, half = target.astype(int).tolist(), half.astype(int).tolist()
        if rng.random() < 0.5:
            cv2.ellipse(mask, centre, half, float(rng.uniform(0, 180)), 0, 360, 255, -1)
        else:
            low, high = ([c + sign * h for c, h in zip(centre, half, strict=True)] for sign in (-1, 1))
            cv2.rectangle(mask, low, high, 255, -1)
        cv2.copyTo(stuff, mask, image)


def expose(rng: np.random.Generator, spec: DomainSpec, image: np.ndarray) -> np.ndarray:
    """Lens blur and sensor noise."""
    size = len(image)
    if rng.random() < spec.blur_probability:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(*spec.blur) * size / 192)
    noise = rng.standard_normal((size, size, 1), np.float32) * np.float32(rng.uniform(*spec.noise))
    return (image + noise).clip(0, 255).astype(np.uint8)
