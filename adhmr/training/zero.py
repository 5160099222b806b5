"""Strategy "zero1" to "zero3": DeepSpeed's ZeRO through Accelerate, on fp32 weights. All that knows DeepSpeed is here.

Stages 1 and 2 cut the optimizer state (2: the gradients too), each rank keeps whole weights. Stage 3 cuts the weights:
between uses a parameter is empty and `ds_tensor` holds this rank's part of it, flattened, the last part padded.
"""

import fcntl
import logging
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as torch_distributed
from accelerate import DeepSpeedPlugin
from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder
from deepspeed.utils import (
    logger,
    safe_get_full_optimizer_state,
    safe_get_local_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.cpp_extension import _get_build_directory

from adhmr.config.training import DistributedConfig
from adhmr.training.strategy import Strategy, finite_or_nan

BUCKET = 50_000_000  # elements in one message of gradients or weights
MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's state of the shape of the parameter; "step" is one number

logger.setLevel(logging.WARNING)  # DeepSpeed prints its whole configuration otherwise
warnings.filterwarnings("ignore", "`torch.distributed.*is deprecated", FutureWarning)  # DeepSpeed's calls, in each step


def deepspeed_plugin(config: DistributedConfig, clip_norm: float | None) -> DeepSpeedPlugin:
    """What Accelerate needs. The trainer says itself where a step ends, and keeps AdamW, learning rates and batches."""
    zero: dict[str, Any] = {
        "stage": int(config.strategy.removeprefix("zero")),
        "reduce_bucket_size": BUCKET,
        "allgather_bucket_size": BUCKET,
        "stage3_prefetch_bucket_size": BUCKET,
    }
    if config.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if config.offload_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    settings = {
        "train_micro_batch_size_per_gpu": 1,  # DeepSpeed wants a number; nothing depends on it
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": 0.0 if clip_norm is None else clip_norm,
        "zero_allow_untested_optimizer": True,  # torch's AdamW, as without ZeRO
        "zero_force_ds_cpu_optimizer": False,  # with offloading too: DeepSpeed's own needs a compiler
        "zero_optimization": zero,
        "steps_per_print": None,
    }
    return DeepSpeedPlugin(hf_ds_config=settings, zero3_init_flag=False)


def compile_cpu_operation() -> None:
    """Compiles what DeepSpeed needs on a CPU, at its first use on a machine (a minute or more); one process at a time.

    Else a process that is killed while it compiles leaves a file `lock`, for whose end all later ones wait for ever.
    """
    folder = Path(_get_build_directory(ShareMemCommBuilder.NAME, verbose=False))
    with open(folder / "adhmr.lock", "w") as own:
        fcntl.flock(own, fcntl.LOCK_EX)  # the kernel gives it back when its process dies
        (folder / "lock").unlink(missing_ok=True)
        ShareMemCommBuilder().load(verbose=False)


class ZeroStrategy(Strategy):
    """`module` is the bare network, whose parameters DeepSpeed has flattened (stages 1, 2) or emptied (stage 3)."""

    def _prepare(self, module: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        self._trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._engine, _ = self.distribution.accelerator.prepare(module, optimizer)
        self._zero = self._engine.optimizer
        self._cut = self.ranks_meet_in_forward = self._engine.zero_optimization_stage() == 3
        return self._engine, self._zero

    def micro_step(self, last: bool) -> AbstractContextManager:
        return nullcontext()  # stages 2 and 3 reduce each micro-step's gradients into their parts

    def backward(self, loss: Tensor) -> None:
        self._engine.backward(finite_or_nan(loss))

    def step(self) -> tuple[Tensor, bool]:
        self._engine.step()  # looks for gradients that are not finite on any rank, and then changes nothing
        return torch.as_tensor(self._engine.get_global_grad_norm()), self._engine.was_step_applied()

    def held_weights(self) -> dict[str, Tensor]:
        if not self._cut:
            return super().held_weights()
        parts = {name: parameter.ds_tensor for parameter, name in self.names.items()}
        buffers = self.module.state_dict() if self.distribution.is_main else {}  # and the empty parameters
        return {**buffers, **parts}

    def whole(self, held: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not self._cut:
            return super().whole(held)
        found = {name: self._gathered(parameter, held[name]) for parameter, name in self.names.items()}
        return {**held, **found} if self.distribution.is_main else {}

    def cut(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not self._cut:
            return super().cut(whole)
        buffers = whole if self.distribution.is_main else {}
        return {**buffers, **{name: self._part(parameter, whole[name]) for parameter, name in self.names.items()}}

    def optimizer_state(self) -> dict[str, Tensor]:
        state = self._zero.optimizer.state
        found: dict[str, Tensor] = {}
        if not state:
            return found  # no step was made yet
        step = next(iter(state.values()))["step"]
        self._link_moments()
        for parameter in self._trained:
            name = self.names[parameter]
            for moment in MOMENTS:
                if self._cut:
                    value = self._gathered(parameter, safe_get_local_optimizer_state(parameter, moment))
                else:
                    value = safe_get_full_optimizer_state(parameter, moment)
                found[f"{moment}/{name}"] = value
            found[f"step/{name}"] = step
        return found if self.distribution.is_main else {}

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
        for name, buffer in self.module.named_buffers():
            if name in weights:  # the others are constants
                buffer.copy_(weights[name])
        for parameter, name in self.names.items():
            value = weights[name].to(self.distribution.device)
            if parameter.numel() == value.numel():  # whole at the moment; with stage 3 only the small ones are
                parameter.copy_(value)
            if self._cut:
                part = self._part(parameter, value)
                parameter.ds_tensor.copy_(part)
                safe_set_local_fp32_param(parameter, part)
            elif parameter.requires_grad:
                safe_set_full_fp32_param(parameter, value)
        self._load_optimizer(optimizer)

    def _load_optimizer(self, optimizer: Mapping[str, Tensor]) -> None:
        zero, state = self._zero, self._zero.optimizer.state
        flats = zero.fp32_partitioned_groups_flat if self._cut else zero.single_partition_of_fp32_groups
        # Of a checkpoint before the first update there is nothing; a parameter without a gradient so far has zeros.
        step = max((value for key, value in optimizer.items() if key.startswith("step/")), default=torch.zeros(()))
        for flat in flats:
            state[flat]["step"] = step.float().clone()
            for moment in MOMENTS:
                state[flat].setdefault(moment, torch.zeros_like(flat))
        self._link_moments()
        for parameter in self._trained:
            for moment in MOMENTS:
                value = optimizer.get(f"{moment}/{self.names[parameter]}")
                if value is None:
                    value = torch.zeros(parameter.ds_shape if self._cut else parameter.shape)
                value = value.to(self.distribution.device)
                if self._cut:
                    safe_set_local_optimizer_state(parameter, self._part(parameter, value), moment)
                else:
                    safe_set_full_optimizer_state(parameter, value, moment)

    def _link_moments(self) -> None:
        """Stages 1 and 2: which piece of the flat state belongs to which parameter.

        DeepSpeed does so too, but in its first step, when only the first group of parameters has a state.
        """
        if not self._cut:
            self._zero._hp_optimizer_states_linked = False
            self._zero._lazy_init_hp_params_optimizer_state()

    def _part(self, parameter: nn.Parameter, value: Tensor) -> Tensor:
        """(part,) of a whole tensor: this rank's, padded with zeros at the end."""
        size = parameter.ds_tensor.numel()
        part = value.new_zeros(size)
        own = value.flatten()[size * self.distribution.rank :][:size]
        part[: own.numel()] = own
        return part

    def _gathered(self, parameter: nn.Parameter, part: Tensor) -> Tensor:
        """The whole tensor, in the parameter's shape, of all ranks' parts; all ranks call it."""
        part = part.to(self.distribution.device).contiguous()
        parts = [torch.empty_like(part) for _ in range(self.distribution.world_size)]
        torch_distributed.all_gather(parts, part)
        return torch.cat(parts)[: parameter.ds_numel].view(parameter.ds_shape)
