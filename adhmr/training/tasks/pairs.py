"""From a preference sample to what alignment trains on: pairs that move with the augmented crop, their timesteps and
noise, what of them counts. The loss is in dpo.py; how the samples are made is in adhmr.preference."""

from __future__ import annotations

from typing import Any

import numpy as np

from adhmr.body.codec import PoseCodec
from adhmr.body.skeleton import FLIP_JOINTS, FLIP_TWISTS
from adhmr.config.alignment import DpoStage
from adhmr.config.data import CropConfig
from adhmr.data.randomness import RandomKey
from adhmr.data.schema import RawSample
from adhmr.data.transforms import PersonCrop
from adhmr.errors import AdhmrError
from adhmr.training.tasks.base import draw_timesteps


class StoredCrop(PersonCrop):
    """PersonCrop of an image that is a network crop already: its box is the whole image. Without augmentation the crop
    is the image as it is; with it, what comes in from outside is black."""

    def _box(self, sample: RawSample, record: np.void, padding: float) -> tuple[np.ndarray, float]:
        height, width = sample.image.shape[:2]
        return np.array([width / 2, height / 2]), float(width)


class PairTransform:
    """Choose pairs of an image, move them into its augmented crop, encode them, draw timesteps and noise.

    Returns, for P pairs: winner, loser (P, 133) x0; weight (133,) of each number in the errors; t (P,); noise (P, 133),
    and loser_noise when it is not shared; desirable (P,) bool, whether a KTO sample shows the winner; dataset, key; and
    image (3, S, S) uint8, or the members features_* that were stored in its place.
    """

    def __init__(self, config: DpoStage, crop_size: int, stored_features: bool):
        self.config, self.stored_features = config, stored_features
        self.crop = StoredCrop(CropConfig(size=crop_size, padding=1.0), config.augment, config.data_sets)
        self.codec = PoseCodec(crop_size)

    def __call__(self, sample: RawSample, key: RandomKey) -> dict[str, Any]:
        pairs = sample.extras.get("pairs.npy")
        if pairs is None:
            place = f"{sample.dataset}, sample {sample.key}"
            raise AdhmrError(f"{place}: holds no pairs; give a folder that a generate stage wrote")
        count = self.config.pairs_per_image
        chosen = pairs[key.rng("pairs").choice(len(pairs), count, replace=len(pairs) < count)]
        crop = self.crop(sample, key)
        item: dict[str, Any] = {
            "winner": self._encoded(chosen, "winner", crop["affine"]),
            "loser": self._encoded(chosen, "loser", crop["affine"]),
            "t": draw_timesteps(key.seed, key.position, count),
            "desirable": key.rng("side").random(count) < 0.5,
            "dataset": crop["dataset"],
            "key": crop["key"],
        }
        shape = item["winner"].shape
        item["noise"] = key.rng("noise").standard_normal(shape, np.float32)
        if self.config.noise == "independent":
            item["loser_noise"] = key.rng("noise of the loser").standard_normal(shape, np.float32)
        known = np.concatenate([crop["uvd_weight"].ravel(), crop["twist_weight"].ravel()])  # (133,)
        item["weight"] = (known if self.config.mask == "labels" else np.ones_like(known)).astype(np.float32)
        features = sample.extras.get("features.npy") if self.stored_features else None
        if features is None:
            item["image"] = crop["image"]
        else:
            item |= {f"features_{name}": np.array(features[name]) for name in features.dtype.names}
        return item

    def _encoded(self, pairs: np.ndarray, side: str, affine: np.ndarray) -> np.ndarray:
        """x0 (P, 133) of one side in the crop that affine (2, 3) leads to."""
        uvd, twists = moved_hypothesis(pairs[f"{side}_uvd"], pairs[f"{side}_twists"], affine)
        return np.concatenate(self.codec.encode(uvd, twists), axis=-1).astype(np.float32)


def moved_hypothesis(uvd: np.ndarray, twists: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uvd (..., 29, 3) and twists (..., 23, 2) in another crop of the same image; affine (2, 3) from crop to crop.

    A flip (negative determinant) exchanges left and right and turns the twists' angles round. An in-plane rotation
    turns neither depths nor twists, see PersonCrop.
    """
    pixels = uvd[..., :2] @ affine[:, :2].T + affine[:, 2]
    uvd = np.concatenate([pixels, uvd[..., 2:]], -1)
    if np.linalg.det(affine[:, :2]) < 0:
        uvd = uvd[..., list(FLIP_JOINTS), :]
        twists = twists[..., list(FLIP_TWISTS), :] * np.float32([1, -1])
    return uvd, twists
