"""What the frozen reference of an alignment says of a batch: the features that it shares with the policy, and its
denoising errors. The policy and the loss are in dpo.py."""

from __future__ import annotations

import copy
import logging

import torch
from torch import Tensor

from adhmr.config.alignment import DpoStage
from adhmr.data.shard_reader import ShardReader
from adhmr.errors import AdhmrError
from adhmr.models.base_model import BaseModel
from adhmr.models.encoder import ImageFeatures
from adhmr.models.weights import load_model
from adhmr.objectives.preference import denoising_error
from adhmr.preference.records import encoder_hash, features_from_batch
from adhmr.training.task import Batch

NUM_JOINT_VALUES = 87  # of the 133 numbers of x0; the rest are twists

log = logging.getLogger(__name__)


class Reference:
    """A frozen base model, without dropout: the policy's first weights or another one. `stored_features`: whether
    batches hold the features of its encoder in place of images."""

    def __init__(self, config: DpoStage, base: BaseModel):
        self.config = config
        self.model = self._network(base).requires_grad_(False).eval()
        self.stored_features = not config.train_encoder and config.augment is None and self._features_are_stored()

    def _network(self, base: BaseModel) -> BaseModel:
        """The model to compare with. Adapters leave the base as it is, so that it needs no copy of its own."""
        config = self.config
        if config.reference_is_base:
            return copy.deepcopy(base) if config.lora is None else base
        model = load_model(config.reference, "base")
        if model.config.crop_size != base.config.crop_size:
            sizes = f"{model.config.crop_size} and {base.config.crop_size} px"
            raise AdhmrError(f"reference: {config.reference} and {config.base} are made for crops of {sizes}")
        if not config.train_encoder and encoder_hash(model.encoder) != encoder_hash(base.encoder):
            raise AdhmrError(
                f"reference: {config.reference} has another encoder than {config.base}, and with train_encoder: false "
                "both share one pass of it; choose a reference with the base's encoder, or set train_encoder: true"
            )
        return model

    def _features_are_stored(self) -> bool:
        """Whether every preference folder holds the features of this very encoder."""
        own = encoder_hash(self.model.encoder)
        for item in self.config.preferences:
            sample = ShardReader(item.path).read(0)
            if "features.npy" not in sample.extras:
                return False
            if sample.provenance.get("encoder") != own:
                log.warning(f"{item.path}: its features are of another encoder than {self.config.base}; not used")
                return False
        return True

    def to(self, device: torch.device) -> None:
        self.model.to(device)

    @torch.no_grad()
    def features(self, batch: Batch) -> ImageFeatures:
        """What its encoder sees in the images of a batch: read from the batch where they are stored."""
        if "image" not in batch:
            return features_from_batch(batch)
        with self._precision(batch["image"].device):
            return self.model.encoder(batch["image"])

    @torch.no_grad()
    def errors(self, batch: Batch, x_t: Tensor, t: Tensor, noise: Tensor, features: ImageFeatures) -> Tensor:
        """(N, H, 2), see `denoising_errors`, of hypotheses x_t (N, H, 133) with noise (N, H, 133) at t (N, H)."""
        with self._precision(t.device):
            predicted = self.model.denoiser(*network_inputs(x_t), t, features)
        return denoising_errors(predicted, noise, batch["weight"])

    def _precision(self, device: torch.device) -> torch.autocast:
        """Only the policy is wrapped for mixed precision. The reference must round as it does: what is compared is
        tiny."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.config.train.precision == "bf16")


def network_inputs(x_t: Tensor) -> tuple[Tensor, Tensor]:
    """x_t (N, H, 133) as the denoiser takes it: joints (N, H, 87), twists (N, H, 46)."""
    return x_t[..., :NUM_JOINT_VALUES], x_t[..., NUM_JOINT_VALUES:]


def denoising_errors(predicted: tuple[Tensor, Tensor], noise: Tensor, weight: Tensor) -> Tensor:
    """(N, H, 2): mean weighted squared errors of the predicted noise of joints (N, H, 87) and twists (N, H, 46);
    noise (N, H, 133), weight (N, 133)."""
    pairs = zip(predicted, network_inputs(noise), network_inputs(weight[:, None]), strict=True)
    return torch.stack([denoising_error(*three) for three in pairs], -1)
