"""From a stored sample to the network's crop and labels: the person box, augmentation, and weights. numpy and OpenCV.

Scaling images for a backbone is part of the model, scaling labels is in body/codec.py, batching is in stream.py.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from adhmr.body.skeleton import NUM_BODY_JOINTS
from adhmr.config.data import AugmentConfig, CropConfig, DataSetConfig
from adhmr.data.randomness import RandomKey
from adhmr.data.schema import RawSample, boxed_points, mirror
from adhmr.data.shard_reader import CorruptSampleError
from adhmr.errors import AdhmrError

# HypoNet's training recipe: occluders cover up to this part of the box, with an aspect ratio of at most this.
OCCLUDER_AREA = 0.3
OCCLUDER_ASPECT = 2.0


class PersonCrop:
    """Cuts the crop around the person and moves the labels with it.

    With an AugmentConfig the crop is changed at random, by numbers that depend only on the key. H is the crop's size, W
    its width.
    `sets` are those that the samples come from: their own padding and occlusion, and which labels they supervise.

    Returns a dict of
        image (3, H, W) uint8 RGB;
        uvd (29, 3): pixels of the crop, and metres behind the root; uvd_weight (29, 3), depth 0 where it is unknown;
        twists (23, 2) cosine and sine; twist_weight (23, 2); betas (10,); betas_weight;
        intrinsics (3, 3) of the crop, in-plane rotation included; root_depth in metres;
        affine (2, 3) from pixels of the stored image to those of the crop, the flip included;
        pose (24, 3) axis-angle; transl (3,) metres; has_pose; joints17 (17, 3) metres; has_joints17; dataset, key.
    Labels that a record lacks are zero, and so is their weight. Labels that the sample's set does not supervise keep
    their value: they have no weight in a loss, but the noisy pose that a denoiser sees is whole. pose, transl, joints17
    and the joints that uvd stands for are in the camera's frame, which an in-plane rotation of the crop does not turn
    (the intrinsics carry it) and a flip mirrors.

    Raises CorruptSampleError when nothing says where the person is or a label that counts is not finite.
    """

    def __init__(
        self, crop: CropConfig, augment: AugmentConfig | None = None, sets: Sequence[DataSetConfig] = ()
    ) -> None:
        self.crop, self.augment = crop, augment
        self.sets = {item.set_name: item for item in sets}

    def __call__(self, sample: RawSample, key: RandomKey) -> dict[str, np.ndarray | float | int | str]:
        record, size, augment = sample.record, self.crop.size, self.augment
        own = self.sets[sample.dataset] if self.sets else None
        padding = self.crop.padding if own is None or own.padding is None else own.padding
        rng = key.rng("augment") if augment else None
        if rng is not None and rng.random() < augment.flip_probability:
            record = mirror(record)

        centre, side = self._box(sample, record, padding)
        angle = 0.0
        if rng is not None:
            centre = centre + side * rng.uniform(-augment.shift, augment.shift, 2)
            side = side * np.clip(rng.normal(1, augment.scale), 1 - augment.scale, 1 + augment.scale)
            limit = 2 * augment.rotation_degrees
            turn = np.clip(rng.normal(0, augment.rotation_degrees), -limit, limit)
            angle = float(np.radians(turn)) if rng.random() < augment.rotation_probability else 0.0
        affine = square_affine(centre, side, angle, size)  # (2, 3)
        affine[0, 2] -= (size - self.crop.width) / 2  # a tall crop is the middle of the square one
        stored = affine  # from pixels of the image as it is stored
        if record is not sample.record:
            stored = affine @ [[-1.0, 0.0, sample.image.shape[1]], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
        image = warp(sample.image, stored, (size, self.crop.width))
        if rng is not None:
            self._recolour(image, rng)
            probability = augment.occlusion_probability
            if own is not None and own.occlusion_probability is not None:
                probability = own.occlusion_probability
            if rng.random() < probability:
                self._occlude(image, padding, rng)

        labels = self._labels(record, affine)
        if not all(np.isfinite(value).all() for value in labels.values()):
            bad = [name for name, value in labels.items() if not np.isfinite(value).all()]
            raise CorruptSampleError(sample.dataset, "its record", sample.key, f"{bad[0]} is not finite")
        if own is not None and own.labels is not None:
            self._unsupervise(labels, own.labels)
        labels["affine"] = stored.astype(np.float32)
        return {"image": image, **labels, "dataset": sample.dataset, "key": sample.key}

    def _box(self, sample: RawSample, record: np.void, padding: float) -> tuple[np.ndarray, float]:
        """Centre (2,) and height of the person's box, padded; pixels of the stored image."""
        points = boxed_points(record)
        if len(points) == 0 or not np.isfinite(points).all():
            raise CorruptSampleError(sample.dataset, "its record", sample.key, "no body joint is known in pixels")
        low, high = points.min(0), points.max(0)
        side = float(((high - low) / [self.crop.aspect, 1.0]).max()) * padding
        if side < 1:
            raise CorruptSampleError(sample.dataset, "its record", sample.key, "its joints are within one pixel")
        return (low + high) / 2, side

    def _labels(self, record: np.void, affine: np.ndarray) -> dict[str, np.ndarray | float | int]:
        confidence = record["joints_conf"]  # (29,)
        depth_known = float(record["has_depth"])
        weight = np.stack([confidence, confidence, confidence * depth_known], -1)  # (29, 3)
        pixels = record["joints29_px"] @ affine[:, :2].T + affine[:, 2]  # (29, 2)
        depth = record["joints29"][:, 2:] - record["joints29"][:1, 2:]  # (29, 1) metres
        uvd = np.concatenate([pixels, depth], -1).astype(np.float32)
        twist_weight = np.repeat(record["twists_conf"][:, None] * float(record["has_twists"]), 2, -1)  # (23, 2)
        intrinsics = np.vstack([affine, [0, 0, 1]]) @ record["intrinsics"]
        return {
            # A label without weight may be anything in the record, also not a number.
            "uvd": np.where(weight > 0, uvd, 0),
            "uvd_weight": weight,
            "twists": np.where(twist_weight > 0, record["twists"], 0),
            "twist_weight": twist_weight.astype(np.float32),
            "betas": record["betas"] if record["has_betas"] else np.zeros(10, np.float32),
            "betas_weight": float(record["has_betas"]),
            "intrinsics": intrinsics.astype(np.float32),
            "root_depth": float(record["joints29"][0, 2]) if depth_known else 0.0,
            "pose": record["pose"] if record["has_pose"] else np.zeros((24, 3), np.float32),
            "transl": record["transl"] if record["has_pose"] else np.zeros(3, np.float32),
            "has_pose": int(record["has_pose"]),
            "joints17": record["joints17"] if record["has_joints17"] else np.zeros((17, 3), np.float32),
            "has_joints17": int(record["has_joints17"]),
        }

    @staticmethod
    def _unsupervise(labels: dict[str, np.ndarray | float | int], supervised: list[str]) -> None:
        """Take the weight, in place, of all labels that are not supervised beside the body joints in 2-D."""
        if "depth" not in supervised:
            labels["uvd_weight"][:, 2] = 0
        if "leaves" not in supervised:
            labels["uvd_weight"][NUM_BODY_JOINTS:] = 0
        if "twists" not in supervised:
            labels["twist_weight"][:] = 0
        if "betas" not in supervised:
            labels["betas_weight"] = 0.0

    def _recolour(self, image: np.ndarray, rng: np.random.Generator) -> None:
        for plane, factor in zip(image, rng.uniform(1 - self.augment.colour, 1 + self.augment.colour, 3)):
            cv2.convertScaleAbs(plane, plane, factor)

    def _occlude(self, image: np.ndarray, padding: float, rng: np.random.Generator) -> None:
        """Fill a rectangle of noise whose centre lies in the person's box, which is the crop without its padding."""
        shape = np.array(image.shape[:0:-1])  # width, height
        box = shape / padding
        area = rng.uniform(0, OCCLUDER_AREA) * box.prod()
        aspect = OCCLUDER_ASPECT ** rng.uniform(-1, 1)
        half = np.sqrt([area / aspect, area * aspect]) / 2  # x, y
        middle = shape / 2 + box * rng.uniform(-0.5, 0.5, 2)
        left, top = np.clip(np.round(middle - half), 0, shape).astype(int)
        right, bottom = np.clip(np.round(middle + half), 0, shape).astype(int)
        image[:, top:bottom, left:right] = rng.integers(0, 256, (3, bottom - top, right - left), np.uint8)


class LabelledCrop(PersonCrop):
    """PersonCrop for where bodies are compared: every sample must have pose, shape and depth.

    Raises AdhmrError for one that has not, beside what PersonCrop raises.
    """

    def __call__(self, sample: RawSample, key: RandomKey) -> dict[str, np.ndarray | float | int | str]:
        missing = [name for name in ("pose", "betas", "depth") if not sample.record[f"has_{name}"]]
        if missing:
            place = f"{sample.dataset}, sample {sample.key}"
            raise AdhmrError(f"{place}: its label has no {' and no '.join(missing)}; errors of bodies need all of them")
        return super().__call__(sample, key)


def square_affine(centre: np.ndarray, side: float, angle: float, size: int) -> np.ndarray:
    """body.camera.crop_affine for one sample in plain numpy, for loader workers: (2, 3) float64, image to crop."""
    scale = size / side
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cosine, sine], [-sine, cosine]])
    return np.concatenate([linear, (size / 2 - linear @ centre)[:, None]], axis=1)


def averaged_pixels(scale: float) -> int:
    """How many pixels a side `warp` averages before it samples, where it makes an image smaller by `scale`."""
    return int(1 / scale + 0.25)


def warp(image: np.ndarray, affine: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The crop (3, *shape) of an (H, W, 3) image; affine (2, 3) maps continuous image to crop pixels.

    `shape` is (height, width). Outside the image is black.
    """
    planes = np.empty((4, *shape), np.uint8)
    cv2.split(warped(image, affine, shape), list(planes))  # ten times as fast as numpy transposes
    return planes[:3]


def warped(image: np.ndarray, affine: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The same crop, interleaved and with a fourth channel that says nothing: (*shape, 4)."""
    reduction = averaged_pixels(float(np.hypot(affine[0, 0], affine[1, 0])))
    if reduction > 1:
        # Bilinear sampling of a much larger image would alias: average whole pixels first.
        height, width = image.shape[:2]
        small = (max(1, round(width / reduction)), max(1, round(height / reduction)))
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        affine = affine @ np.diag([width / small[0], height / small[1], 1.0])
    # OpenCV's coordinates are pixel centres: continuous pixel x is its x - 1/2.
    indexed = affine.copy()
    indexed[:, 2] += affine[:, :2] @ [0.5, 0.5] - 0.5
    # OpenCV warps four channels twice as fast as three.
    image = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    return cv2.warpAffine(image, indexed, shape[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
