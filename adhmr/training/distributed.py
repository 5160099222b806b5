"""Processes and devices: the only module that touches Accelerate.

Gives the trainer a device, a wrapped model, backward, clipping, and exchange between ranks out of band of the
gradients (a gloo group on CPU tensors, so that agreeing on a signal never waits for the accelerator).
"""

import os
import random
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as torch_distributed
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, nn
from torch.optim import Optimizer

from adhmr.config.training import DistributedConfig, TrainConfig
from adhmr.errors import AdhmrError

# The others wait this long for rank 0 to evaluate or save; a rank that died is noticed at once, by its closed socket.
CONTROL_TIMEOUT = timedelta(hours=6)


class Distribution:
    """One process, or DDP over the processes that the launcher started (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_*).

    Raises AdhmrError: a strategy that is not available, or a world size other than the launcher's.
    """

    def __init__(self, config: DistributedConfig, train: TrainConfig):
        if config.strategy != "ddp":
            raise AdhmrError(f"distributed.strategy: '{config.strategy}' is not available yet; use 'ddp'")
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        on_cpu = not torch.cuda.is_available()
        handlers = [InitProcessGroupKwargs(backend="gloo" if on_cpu else "nccl")] if launched > 1 else []
        # Accelerate keeps its settings for the life of the process; another stage of a chain may have others.
        AcceleratorState._reset_state()
        self.accelerator = Accelerator(
            cpu=on_cpu,
            mixed_precision="bf16" if train.precision == "bf16" else "no",
            kwargs_handlers=handlers,
        )
        self.rank: int = self.accelerator.process_index
        self.world_size: int = self.accelerator.num_processes
        if self.world_size != launched:
            # Accelerate falls back to single processes silently, and every rank would train alone.
            raise AdhmrError(
                f"the launcher started {launched} processes but Accelerate sees {self.world_size}; "
                "check RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT"
            )
        self.device: torch.device = self.accelerator.device
        self.is_main: bool = self.rank == 0
        self._control = torch_distributed.new_group(backend="gloo", timeout=CONTROL_TIMEOUT) if launched > 1 else None

    def prepare(self, model: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """Moves `model` to the device and wraps both for this strategy and precision."""
        return self.accelerator.prepare(model, optimizer)

    def release(self, model: nn.Module) -> None:
        """Takes Accelerate's autocast off the bare module that was prepared, which it puts on the instance."""
        # Accelerate's own unwrap_model does this too, but imports DeepSpeed (seconds) on the way.
        for name in ("forward", "_original_forward"):
            model.__dict__.pop(name, None)

    def begin_step(self, micro_steps: int) -> None:
        """How many micro-steps make the step that begins."""
        self.accelerator.gradient_accumulation_steps = micro_steps
        self.accelerator.step = 0  # it counts micro-steps through the whole run, but their number may change

    def micro_step(self, model: nn.Module) -> AbstractContextManager:
        """Gradients are exchanged only in the last micro-step of a step."""
        return self.accelerator.accumulate(model)

    def backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    def clip_gradients(self, parameters: Sequence[nn.Parameter], max_norm: float | None) -> Tensor:
        """Global gradient norm before clipping, equal on all ranks."""
        return self.accelerator.clip_grad_norm_(parameters, float("inf") if max_norm is None else max_norm)

    def any_rank(self, *flags: bool) -> list[bool]:
        """Each flag, true on all ranks when it is true on one."""
        votes = torch.tensor([int(flag) for flag in flags])
        if self._control is not None:
            torch_distributed.all_reduce(votes, torch_distributed.ReduceOp.MAX, group=self._control)
        return [bool(vote) for vote in votes]

    def sum(self, values: Tensor) -> Tensor:
        """Element-wise sum over ranks, on CPU."""
        values = values.detach().cpu()
        if self._control is not None:
            torch_distributed.all_reduce(values, group=self._control)
        return values

    def gather(self, value: Any) -> list[Any]:
        """One object of every rank, in rank order, on every rank."""
        if self._control is None:
            return [value]
        values: list[Any] = [None] * self.world_size
        torch_distributed.all_gather_object(values, value, group=self._control)
        return values

    def from_main(self, value: Any) -> Any:
        """The main process's object, on every rank."""
        if self._control is None:
            return value
        values = [value]
        torch_distributed.broadcast_object_list(values, src=0, group=self._control)
        return values[0]

    def seed_step(self, seed: int, step: int) -> None:
        """Dropout and whatever else draws from global generators becomes a function of (seed, step, rank).

        Hence no generator state is saved: evaluation, skipped steps and restarts cannot shift it.
        """
        state = np.random.SeedSequence([seed, step, self.rank]).generate_state(3)
        random.seed(int(state[0]))
        np.random.seed(state[1])
        torch.manual_seed(int(state[2]))


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean over all ranks of a scalar without gradient; the value itself in one process. All ranks call it."""
    if not torch_distributed.is_initialized():
        return value
    total = value.clone()
    torch_distributed.all_reduce(total)
    return total / torch_distributed.get_world_size()
