"""What the frozen reference of an alignment says of a batch: the features that it shares with the policy, and its
denoising errors, each computed in the step or stored before. The policy and the loss are in dpo.py."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from adhmr.config.alignment import DpoStage
from adhmr.errors import AdhmrError
from adhmr.models.base_model import BaseModel
from adhmr.models.encoder import ImageFeatures
from adhmr.models.weights import load_model
from adhmr.objectives.preference import denoising_error
from adhmr.preference.records import encoder_hash, features_from_batch
from adhmr.training.reference_errors import ReferenceErrors, plan_of, request_of
from adhmr.training.task import Batch
from adhmr.training.tasks.stored_features import features_are_stored

NUM_JOINT_VALUES = 87  # of the 133 numbers of x0; the rest are twists


class Reference:
    """A frozen base model, without dropout: the policy's first weights or another one. Of its two parts `model` holds
    those that a step runs: no encoder where its features are stored or nobody reads them, no denoiser where its errors
    are stored or nobody asks for them; the others are None.

    stored_features: whether batches hold the features of its encoder in place of images. stored_errors: its errors,
    where they were computed before.
    """

    def __init__(self, config: DpoStage, base: BaseModel):
        self.config = config
        network = self._network(base)
        self.stored_features = features_are_stored(config, network.encoder)
        self.stored_errors = None
        if config.reference_errors is not None:
            request = request_of(config, plan_of(config).plan, self.stored_features)
            self.stored_errors = ReferenceErrors(config.reference_errors, request)
        runs = config.compares and self.stored_errors is None
        self.reads_features = runs or not config.train_encoder  # by itself, or by the policy
        encodes = self.reads_features and not self.stored_features
        self.model = nn.Module()
        self.model.encoder = network.encoder if encodes else None
        self.model.denoiser = network.denoiser if runs else None
        if network is base and config.train_encoder:  # what does not train is shared with the policy
            self.model.encoder = copy.deepcopy(self.model.encoder)
        if network is base and config.lora is None:  # adapters leave the base as it is
            self.model.denoiser = copy.deepcopy(self.model.denoiser)
        self.model.requires_grad_(False).eval()

    def _network(self, base: BaseModel) -> BaseModel:
        """The model to compare with."""
        config = self.config
        if config.reference_is_base:
            return base
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

    def to(self, device: torch.device) -> None:
        self.model.to(device)

    @torch.no_grad()
    def features(self, batch: Batch) -> ImageFeatures | None:
        """What its encoder sees in the images of a batch: read from the batch where they are stored. None where nobody
        reads them: the policy has an encoder of its own, and the errors are stored."""
        if not self.reads_features:
            return None
        if self.stored_features:
            return features_from_batch(batch)
        with self._precision(batch["image"].device):
            return self.model.encoder(batch["image"])

    @torch.enable_grad()  # nothing wants a gradient; but without this mode attention rounds otherwise on a CPU
    def errors(self, batch: Batch, x_t: Tensor, t: Tensor, noise: Tensor, features: ImageFeatures | None) -> Tensor:
        """(N, H, 2), see `denoising_errors`, of hypotheses x_t (N, H, 133) with noise (N, H, 133) at t (N, H): read
        from the batch where they are stored."""
        if self.stored_errors is not None:
            return batch["reference_errors"]
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
