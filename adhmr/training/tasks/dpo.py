"""Task "dpo": align a base model with preferences, by DPO (paper section 4.3 and equation 5) or another objective.

The denoiser trains, with `train_encoder` the encoder too. What a batch holds is in pairs.py, what the reference says of
it in reference.py, the objectives in adhmr.objectives.preference."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from adhmr.body.body_model import BodyModel
from adhmr.config.alignment import DpoStage
from adhmr.config.data import CropConfig
from adhmr.diffusion.schedule import LinearSchedule
from adhmr.diffusion.weighting import timestep_weights
from adhmr.errors import AdhmrError
from adhmr.evaluation.quick import VALIDATION_SEED, quick_errors
from adhmr.models.base_model import BaseModel
from adhmr.models.weights import load_model, read_metadata
from adhmr.objectives.preference import GroupErrors, advantage, dpo, ipo, kto, plackett_luce, sft, winner_error
from adhmr.training.distributed import mean_over_ranks
from adhmr.training.frozen import move_weights
from adhmr.training.parameter_groups import encoder_groups
from adhmr.training.task import Batch, Task
from adhmr.training.tasks.adapters import adapted, fill_merged
from adhmr.training.tasks.pairs import PairTransform, shown
from adhmr.training.tasks.reference import Reference, denoising_errors, network_inputs

COMPARISONS = {"dpo": dpo, "ipo": ipo, "plackett_luce": plackett_luce, "advantage": advantage}
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
        if config.lora is not None:
            self.model = adapted(base.denoiser, config.lora, config.seed)
        if config.train_encoder:
            for name, parameter in base.encoder.named_parameters():
                parameter.requires_grad_(not name.startswith(UNREAD_PARTS))
        self.schedule = LinearSchedule()
        self.timestep_weights = timestep_weights(config.weighting, self.schedule)  # (T,)
        torch.manual_seed(config.seed)

    def parameter_groups(self) -> list[dict[str, Any]]:
        if not self.config.train_encoder:
            return [{"params": list(self.model.parameters()), "lr_scale": 1.0}]
        scales = self.config.encoder_lr_scale, self.config.encoder_head_lr_scale
        denoiser = {"params": list(self.model.denoiser.parameters()), "lr_scale": 1.0}
        return [denoiser, *encoder_groups(self.model.encoder, *scales)]

    def prepare(self, device: torch.device) -> None:
        self.reference.to(device)
        move_weights(self.model, device)
        self.schedule.to(device)
        self.timestep_weights = self.timestep_weights.to(device)

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
        x0, noise, t = shown(batch)
        ours, theirs = self._errors(model, batch, self.schedule.q_sample(x0, t, noise), t, noise)
        size = batch["value"].shape[-1]  # of a group
        value = batch["value"].flatten(0, 1)  # (N G, M)
        total, logs = torch.zeros((), device=t.device), {}
        for name, errors in self._by_part(ours, t).items():
            reference = None if theirs is None else self._by_part(theirs, t)[name].view(-1, size)
            groups = GroupErrors(errors.view(-1, size), reference, value)
            loss, figures = self._objective(groups)
            total = total + loss
            if self.config.winner_weight:
                total = total + self.config.winner_weight * winner_error(groups)
            logs |= {f"{name}_{key}": figure for key, figure in figures.items()} | {f"{name}_loss": loss}
        return total, logs

    def _errors(
        self, model: nn.Module, batch: Batch, x_t: Tensor, t: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Denoising errors (N, H, 2) of joints and twists, under the policy and, where the objective compares, under
        the reference. All hypotheses of an image share its features; the policy's are its own encoder's when that
        trains, else the reference's."""
        compares, trains_encoder = self.config.compares, self.config.train_encoder
        features = self.reference.features(batch) if compares or not trains_encoder else None
        if trains_encoder:
            self.model.encoder.eval()  # its batch statistics stay as they were trained
            _, *predicted = model(batch["image"], *network_inputs(x_t), t)
        else:
            predicted = model(*network_inputs(x_t), t, features)
        ours = denoising_errors(predicted, noise, batch["weight"])
        return ours, self.reference.errors(batch, x_t, t, noise, features) if compares else None

    def _by_part(self, errors: Tensor, t: Tensor) -> dict[str, Tensor]:
        """Errors (N, H, 2) at t (N, H), weighted by their timesteps, as the parts (N, H) whose losses are added."""
        joint, twist = (self.timestep_weights[t][..., None] * errors).unbind(-1)
        if self.config.norm == "single":
            return {"pose": JOINT_SHARE * joint + (1 - JOINT_SHARE) * twist}
        return {"joint": joint, "twist": twist}

    def _objective(self, groups: GroupErrors) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        if config.objective == "sft":
            return sft(groups)
        if config.objective == "kto":  # its baseline is over the micro-batches of all ranks
            baseline = mean_over_ranks(groups.gain.detach().mean()).clamp(min=0)
            return kto(groups, config.beta, baseline, config.desirable_weight, config.undesirable_weight)
        return COMPARISONS[config.objective](groups, config.beta)

    def checkpointed_blocks(self) -> list[nn.Module]:
        if self.config.train_encoder:
            return [*self.model.encoder.blocks, *self.model.denoiser.blocks]
        return list(self.model.blocks)

    def exported(self, module: nn.Module) -> nn.Module:
        """A base model like any other: the aligned one, or the aligned denoiser with the base's encoder."""
        if self.config.train_encoder:
            return module
        whole = BaseModel(self.base_config)
        whole.encoder = self.reference.model.encoder
        if self.config.lora is None:
            whole.denoiser = module
        else:
            fill_merged(whole.denoiser, module)
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
