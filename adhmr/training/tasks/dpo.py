"""Task "dpo": align the denoiser of a base model with preference pairs (paper section 4.3 and equation 5). The encoder
is frozen, so policy and reference share its features; where the preference shards hold them, no encoder runs at all."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adhmr.body.body_model import BodyModel
from adhmr.body.codec import PoseCodec
from adhmr.config.data import CropConfig
from adhmr.config.stages import DpoStage
from adhmr.data.randomness import RandomKey
from adhmr.data.schema import RawSample
from adhmr.diffusion.schedule import LinearSchedule
from adhmr.errors import AdhmrError
from adhmr.evaluation.quick import VALIDATION_SEED, quick_errors
from adhmr.models.base_model import BaseModel
from adhmr.models.weights import load_model
from adhmr.objectives.preference import PairErrors, denoising_error, dpo_loss
from adhmr.preference.records import features_from_batch
from adhmr.training.task import Batch, Task
from adhmr.training.tasks.base import draw_timesteps

NUM_JOINT_VALUES = 87  # of the 133 numbers of x0; the rest are twists


class PairTransform:
    """Choose pairs of an image, encode them, draw their timestep and noise (shared by winner and loser)."""

    def __init__(self, crop_size: int, pairs_per_image: int):
        self.codec, self.pairs_per_image = PoseCodec(crop_size), pairs_per_image

    def __call__(self, sample: RawSample, key: RandomKey) -> dict[str, Any]:
        pairs = sample.extras.get("pairs.npy")
        if pairs is None:
            place = f"{sample.dataset}, sample {sample.key}"
            raise AdhmrError(f"{place}: holds no pairs; give a folder that a generate stage wrote")
        rng = key.rng("pairs")
        chosen = pairs[rng.choice(len(pairs), self.pairs_per_image, replace=len(pairs) < self.pairs_per_image)]
        sides = []
        for side in ("winner", "loser"):
            x_joint, x_twist = self.codec.encode(chosen[f"{side}_uvd"], chosen[f"{side}_twists"])
            sides.append(np.concatenate([x_joint, x_twist], axis=-1))
        item: dict[str, Any] = {
            "winner": sides[0].astype(np.float32),  # (P, 133)
            "loser": sides[1].astype(np.float32),
            "t": draw_timesteps(key.seed, key.position, self.pairs_per_image),  # (P,)
            "noise": key.rng("noise").standard_normal(sides[0].shape, np.float32),
        }
        features = sample.extras.get("features.npy")
        if features is None:
            item["image"] = np.ascontiguousarray(sample.image.transpose(2, 0, 1))
        else:
            item |= {f"features_{name}": np.array(features[name]) for name in features.dtype.names}
        return item


class DpoTask(Task):
    kind = "base"  # an aligned model is a base model

    def __init__(self, config: DpoStage):
        self.config = config
        base = load_model(config.base, "base")
        self.base_config = base.config
        self.encoder = base.encoder.requires_grad_(False).eval()
        self.model = base.denoiser
        self.reference = copy.deepcopy(base.denoiser).requires_grad_(False).eval()
        self.schedule = LinearSchedule()
        torch.manual_seed(config.seed)

    def prepare(self, device: torch.device) -> None:
        self.encoder.to(device)
        self.reference.to(device)

    def transform(self) -> PairTransform:
        return PairTransform(self.base_config.crop_size, self.config.pairs_per_image)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            features = features_from_batch(batch) if "image" not in batch else self.encoder(batch["image"])
        pairs = batch["winner"].shape[1]
        # Winners and losers are hypotheses of one image: they share its features, its timestep and its noise.
        x0 = torch.cat([batch["winner"], batch["loser"]], 1)  # (N, 2P, 133)
        noise, t = batch["noise"].repeat(1, 2, 1), batch["t"].repeat(1, 2)
        x_t = self.schedule.q_sample(x0, t, noise)
        inputs = (x_t[..., :NUM_JOINT_VALUES], x_t[..., NUM_JOINT_VALUES:], t, features)
        policy = torch.cat([part.float() for part in model(*inputs)], -1)  # (N, 2P, 133) predicted noise
        with torch.no_grad():
            reference = torch.cat([part.float() for part in self.reference(*inputs)], -1)
        groups = {"joint": slice(0, NUM_JOINT_VALUES), "twist": slice(NUM_JOINT_VALUES, None)}
        if self.config.norm == "single":
            groups = {"pose": slice(None)}
        loss, logs, whole = torch.zeros((), device=t.device), {}, torch.ones((), device=t.device)
        for name, part in groups.items():
            ours = denoising_error(policy[..., part], noise[..., part], whole)  # (N, 2P)
            theirs = denoising_error(reference[..., part], noise[..., part], whole)
            policy_errors = PairErrors(ours[:, :pairs], ours[:, pairs:])
            reference_errors = PairErrors(theirs[:, :pairs], theirs[:, pairs:])
            group_loss, group_logs = dpo_loss(policy_errors, reference_errors, self.config.beta)
            loss = loss + group_loss + self.config.winner_weight * ours[:, :pairs].mean()
            logs |= {f"{name}_{key}": value for key, value in group_logs.items()} | {f"{name}_loss": group_loss}
        return loss, logs

    def exported(self, module: nn.Module) -> nn.Module:
        """The aligned denoiser with the base's encoder: a base model like any other."""
        whole = BaseModel(self.base_config)
        whole.encoder, whole.denoiser = self.encoder, module
        return whole

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        if self.config.validation is None:
            return {}
        crop = CropConfig(size=self.base_config.crop_size, padding=self.config.validation_padding)
        whole = self.exported(model)
        path, limit = self.config.validation.path, self.config.validation_limit
        body = BodyModel(self.config.body)
        return quick_errors(whole, path, crop, limit, VALIDATION_SEED, body)

    def model_config(self) -> dict[str, Any]:
        return self.base_config.model_dump(mode="json")
