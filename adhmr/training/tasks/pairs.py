"""From a preference sample to what alignment trains on: pairs or groups of hypotheses that move with the augmented
crop, their timesteps and noise, what of them counts. The loss is in dpo.py; how the samples are made is in
adhmr.preference."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from adhmr.body.codec import PoseCodec
from adhmr.body.skeleton import FLIP_JOINTS, FLIP_TWISTS
from adhmr.config.alignment import DpoStage
from adhmr.config.data import CropConfig
from adhmr.data.randomness import RandomKey
from adhmr.data.schema import RawSample
from adhmr.data.transforms import PersonCrop
from adhmr.errors import AdhmrError
from adhmr.training.reference_errors import ReferenceErrors
from adhmr.training.task import Batch
from adhmr.training.tasks.base import draw_timesteps


class StoredCrop(PersonCrop):
    """PersonCrop of an image that is a network crop already: its box is the whole image. Without augmentation the crop
    is the image as it is; with it, what comes in from outside is black."""

    def _box(self, sample: RawSample, record: np.void, padding: float) -> tuple[np.ndarray, float]:
        height, width = sample.image.shape[:2]
        return np.array([width / 2, height / 2]), float(width)


class PairTransform:
    """Choose pairs or groups of an image's hypotheses, move them into its augmented crop, encode them, draw timesteps
    and noise.

    Returns, for G groups of M hypotheses, best first (M = 2: pairs; M = 1: a winner, or a side that a coin chose): x0
    (G, M, 133); value (G, M), see GroupErrors; t (G,); noise (G, 1, 133), or (G, M, 133) when it is not shared; weight
    (133,) of each number in the errors; dataset, key; image (3, S, S) uint8, or the members features_* that were
    stored in its place; and with stored errors of the reference reference_errors (G M, 2).
    """

    def __init__(
        self,
        config: DpoStage,
        crop_size: int,
        stored_features: bool = False,
        stored_errors: ReferenceErrors | None = None,
    ):
        self.config, self.stored_features, self.stored_errors = config, stored_features, stored_errors
        self.crop = StoredCrop(CropConfig(size=crop_size, padding=1.0), config.augment, config.data_sets)
        self.codec = PoseCodec(crop_size)

    def __call__(self, sample: RawSample, key: RandomKey) -> dict[str, Any]:
        grouped = self.config.showing == "group"
        uvd, twists, value = self._group(sample, key) if grouped else self._pairs(sample, key)
        crop = self.crop(sample, key)
        moved = moved_hypothesis(uvd, twists, crop["affine"])
        x0 = np.concatenate(self.codec.encode(*moved), axis=-1).astype(np.float32)  # (G, M, 133)
        known = np.concatenate([crop["uvd_weight"].ravel(), crop["twist_weight"].ravel()])  # (133,)
        if self.config.mask == "labels" and not known.any():
            raise AdhmrError(f"{_place(sample)}: has no labels, so that mask: labels leaves nothing; use mask: full")
        item: dict[str, Any] = {
            "x0": x0,
            "value": value.astype(np.float32),
            "t": draw_timesteps(key.seed, key.position, len(x0)),
            "noise": self._noise(x0.shape, key),
            "weight": (known if self.config.mask == "labels" else np.ones_like(known)).astype(np.float32),
            "dataset": crop["dataset"],
            "key": crop["key"],
        }
        if self.stored_errors is not None:
            item["reference_errors"] = self.stored_errors.at(key.position, sample.dataset, sample.key)
        if not self.stored_features:
            item["image"] = crop["image"]
        else:
            features = sample.extras.get("features.npy")
            if features is None:
                raise AdhmrError(f"{_place(sample)}: holds no features, others of its folder do; set features: images")
            item |= {f"features_{name}": np.array(features[name]) for name in features.dtype.names}
        return item

    def _pairs(self, sample: RawSample, key: RandomKey) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """uvd (G, M, 29, 3), twists (G, M, 23, 2) and value (G, M) of pairs, or of what is shown of them."""
        pairs, count = sample.extras.get("pairs.npy"), self.config.pairs_per_image
        if pairs is None:
            raise AdhmrError(f"{_place(sample)}: holds no pairs; give a folder that a generate stage wrote")
        if not len(pairs):  # kept for its hypotheses
            raise AdhmrError(
                f"{_place(sample)}: none of its hypotheses made a pair; objective: {self.config.objective} needs a "
                "folder generated with keep: pairs, which leaves such images out"
            )
        chosen = pairs[key.rng("pairs").choice(len(pairs), count, replace=len(pairs) < count)]
        uvd, twists, value = (
            np.stack([chosen[f"winner_{part}"], chosen[f"loser_{part}"]], 1) for part in ("uvd", "twists", "value")
        )
        if self.config.showing == "pair":
            return uvd, twists, value
        lost = key.rng("side").random(count) >= 0.5 if self.config.showing == "side" else np.zeros(count, bool)
        one = np.arange(count), lost.astype(int)
        return uvd[one][:, None], twists[one][:, None], np.where(lost, -1.0, 1.0)[:, None]

    def _group(self, sample: RawSample, key: RandomKey) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same of groups drawn from all hypotheses, each best first."""
        hypotheses, size = sample.extras.get("hypotheses.npy"), self.config.group_size
        if hypotheses is None:
            raise AdhmrError(
                f"{_place(sample)}: holds pairs only; objective: {self.config.objective} needs a folder generated with "
                "keep: all"
            )
        if len(hypotheses) < size:
            raise AdhmrError(f"{_place(sample)}: holds {len(hypotheses)} hypotheses; group_size {size} needs more")
        rng = key.rng("groups")
        draws = [rng.choice(len(hypotheses), size, replace=False) for _ in range(self.config.pairs_per_image)]
        groups = hypotheses[np.stack(draws)]  # (G, M)
        order = np.argsort(-groups["value"], axis=1, kind="stable")
        groups = np.take_along_axis(groups, order, 1)
        return groups["uvd"], groups["twists"], groups["value"]

    def _noise(self, shape: tuple[int, int, int], key: RandomKey) -> np.ndarray:
        """(G, 1, 133) shared by a group, or (G, M, 133), the first of each group with the same noise in both cases."""
        count, size, width = shape
        first = key.rng("noise").standard_normal((count, 1, width), np.float32)
        if self.config.noise == "shared":
            return first
        others = key.rng("noise of the loser").standard_normal((count, size - 1, width), np.float32)
        return np.concatenate([first, others], 1)


def shown(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """x0 and noise (N, H, 133) and timesteps (N, H) of the H = G M hypotheses that the networks see of each image, the
    M of a group one after the other."""
    x0 = batch["x0"]  # (N, G, M, 133)
    noise, t = batch["noise"].expand_as(x0), batch["t"][..., None].expand(x0.shape[:-1])
    return x0.flatten(1, 2), noise.flatten(1, 2), t.flatten(1, 2)


def _place(sample: RawSample) -> str:
    return f"{sample.dataset}, sample {sample.key}"


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
