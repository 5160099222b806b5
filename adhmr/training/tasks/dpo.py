"""Task "dpo": align a base model with preference pairs, by DPO (paper section 4.3 and equation 5) or KTO.

The denoiser trains, with `train_encoder` the encoder too. What a batch holds is in pairs.py, what the reference says of
it in reference.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from adhmr.body.body_model import BodyModel
from adhmr.config.alignment import DpoStage
from adhmr.config.data import CropConfig
from adhmr.diffusion.schedule import LinearSchedule
from adhmr.errors import AdhmrError
from adhmr.evaluation.quick import VALIDATION_SEED, quick_errors
from adhmr.models.base_model import BaseModel
from adhmr.models.weights import load_model, read_metadata
from adhmr.objectives.preference import PairErrors, dpo_loss, kto_gain, kto_loss, masked_mean
from adhmr.training.distributed import mean_over_ranks
from adhmr.training.parameter_groups import encoder_groups
from adhmr.training.task import Batch, Task
from adhmr.training.tasks.pairs import PairTransform
from adhmr.training.tasks.reference import Reference, denoising_errors, network_inputs

JOINT_SHARE = 87 / 133  # of joints among the numbers of x0; the rest are twists
# Parts of the encoder that the denoiser's output does not depend on, or only without gradient (the depths, as anchor).
UNREAD_PARTS = ("neck.betas.", "neck.betas_map.", "depth_maps.")


class DpoTask(Task):
    kind = "base"  # an aligned model is a base model

    def __init__(self, config: DpoStage):
        self.config = config
        base = load_model(config.base, "base")
        self.base_config = base.config
        self.reference = Reference(config, base)
        self.model: nn.Module = base if config.train_encoder else base.denoiser
        if config.train_encoder:
            for name, parameter in base.encoder.named_parameters():
                parameter.requires_grad_(not name.startswith(UNREAD_PARTS))
        self.schedule = LinearSchedule()
        torch.manual_seed(config.seed)

    def parameter_groups(self) -> list[dict[str, Any]]:
        if not self.config.train_encoder:
            return [{"params": list(self.model.parameters()), "lr_scale": 1.0}]
        scales = self.config.encoder_lr_scale, self.config.encoder_head_lr_scale
        denoiser = {"params": list(self.model.denoiser.parameters()), "lr_scale": 1.0}
        return [denoiser, *encoder_groups(self.model.encoder, *scales)]

    def prepare(self, device: torch.device) -> None:
        self.reference.to(device)
        self.schedule.to(device)

    def initial_average(self) -> dict[str, Tensor] | None:
        if self.config.base_ema is None:
            return None
        average = load_model(self.config.base_ema, "base")
        if average.config != self.base_config:
            raise AdhmrError(
                f"base_ema: {self.config.base_ema} is a model of another configuration than {self.config.base}"
            )
        return average.state_dict()

    def transform(self) -> PairTransform:
        return PairTransform(self.config, self.base_config.crop_size, self.reference.stored_features)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        x0, noise, t = self._shown(batch)
        ours, theirs = self._errors(model, batch, self.schedule.q_sample(x0, t, noise), t, noise)
        total, logs = torch.zeros((), device=t.device), {}
        for name in ours:
            objective = self._kto if self.config.objective == "kto" else self._dpo
            loss, winners, figures = objective(ours[name], theirs[name], batch)
            total = total + loss + self.config.winner_weight * winners
            logs |= {f"{name}_{key}": value for key, value in figures.items()} | {f"{name}_loss": loss}
        return total, logs

    def _shown(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """x0 and noise (N, M, 133) and timesteps (N, M) of what the networks see: for DPO the P winners, then the P
        losers, which share their timesteps; for KTO one of the two."""
        if self.config.objective == "kto":
            x0 = torch.where(batch["desirable"][..., None], batch["winner"], batch["loser"])
            return x0, batch["noise"], batch["t"]
        x0 = torch.cat([batch["winner"], batch["loser"]], 1)
        noise = torch.cat([batch["noise"], batch.get("loser_noise", batch["noise"])], 1)
        return x0, noise, batch["t"].repeat(1, 2)

    def _errors(
        self, model: nn.Module, batch: Batch, x_t: Tensor, t: Tensor, noise: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Denoising errors (N, M) by group, under the policy and under the reference. All hypotheses of an image share
        its features; the policy's are its own encoder's when that trains, else the reference's."""
        features = self.reference.features(batch)
        if self.config.train_encoder:
            self.model.encoder.eval()  # its batch statistics stay as they were trained
            _, *predicted = model(batch["image"], *network_inputs(x_t), t)
        else:
            predicted = model(*network_inputs(x_t), t, features)
        ours = denoising_errors(predicted, noise, batch["weight"])  # (N, M, 2)
        theirs = self.reference.errors(batch, x_t, t, noise, features)
        return self._by_group(ours), self._by_group(theirs)

    def _by_group(self, errors: Tensor) -> dict[str, Tensor]:
        """Errors (N, M, 2) of joints and twists as the groups whose losses are added."""
        joint, twist = errors.unbind(-1)
        if self.config.norm == "single":
            return {"pose": JOINT_SHARE * joint + (1 - JOINT_SHARE) * twist}
        return {"joint": joint, "twist": twist}

    def _dpo(self, policy: Tensor, reference: Tensor, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(loss, the winners' mean error, logs) of errors (N, 2P)."""
        ours, theirs = PairErrors(*policy.chunk(2, 1)), PairErrors(*reference.chunk(2, 1))
        loss, logs = dpo_loss(ours, theirs, self.config.beta)
        return loss, ours.winner.mean(), logs

    def _kto(self, policy: Tensor, reference: Tensor, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The same of errors (N, P). The distance from the reference is taken over the micro-batches of all ranks."""
        gain = kto_gain(policy, reference)
        kl = mean_over_ranks(gain.detach().mean()).clamp(min=0)
        weights = self.config.desirable_weight, self.config.undesirable_weight
        loss, logs = kto_loss(gain, batch["desirable"], kl, self.config.beta, *weights)
        return loss, masked_mean(policy, batch["desirable"]), logs

    def checkpointed_blocks(self) -> list[nn.Module]:
        if self.config.train_encoder:
            return [*self.model.encoder.blocks, *self.model.denoiser.blocks]
        return list(self.model.blocks)

    def exported(self, module: nn.Module) -> nn.Module:
        """A base model like any other: the aligned one, or the aligned denoiser with the base's encoder."""
        if self.config.train_encoder:
            return module
        whole = BaseModel(self.base_config)
        whole.encoder, whole.denoiser = self.reference.model.encoder, module
        return whole

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        validation, limit = self.config.validation, self.config.validation_limit
        if validation is None:
            return {}
        padding = self.config.validation_padding if validation.padding is None else validation.padding
        crop = CropConfig(size=self.base_config.crop_size, padding=padding)
        body = BodyModel(self.config.body)
        return quick_errors(self.exported(model), validation.path, crop, limit, VALIDATION_SEED, body)

    def weights_metadata(self) -> dict[str, Any]:
        return {name: value for name, value in read_metadata(self.config.base).items() if name == "crop_padding"}

    def model_config(self) -> dict[str, Any]:
        return self.base_config.model_dump(mode="json")
