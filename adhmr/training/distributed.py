"""The processes of a run: who they are, what they tell each other out of band of the gradients, and who may fail alone.

Messages go through a gloo group on CPU tensors, so that agreeing on a signal never waits for the accelerator. How a
model is spread over the processes is in strategy.py and zero.py.
"""

import os
import random
import socket
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as torch_distributed
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor

from adhmr.config.training import DistributedConfig, TrainConfig
from adhmr.errors import AdhmrError

# The others wait this long for rank 0 to evaluate or save; a rank that died is noticed at once, by its closed socket.
CONTROL_TIMEOUT = timedelta(hours=6)

Result = TypeVar("Result")


class Distribution:
    """One process, or those that the launcher started (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_*).

    Raises AdhmrError for a world size other than the launcher's.
    """

    def __init__(self, config: DistributedConfig, train: TrainConfig, clip_norm: float | None = None):
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        zero = config.strategy != "ddp"
        if zero and launched == 1:
            _be_alone()  # DeepSpeed wants a process group even of one
        on_cpu = not torch.cuda.is_available()
        # Longer than the watchdog's patience, which ends the processes with a report of what each was doing.
        timeout = timedelta(seconds=train.hang_seconds + 120)
        handlers = [InitProcessGroupKwargs(backend="gloo" if on_cpu else "nccl", timeout=timeout)]
        plugin = None
        if zero:
            if on_cpu:
                os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed warns that it found none
            from adhmr.training.zero import compile_cpu_operation, deepspeed_plugin  # seconds to import

            if on_cpu:
                compile_cpu_operation()
            plugin = deepspeed_plugin(config, clip_norm)
        # Accelerate keeps its settings for the life of the process; another stage of a chain may have others.
        AcceleratorState._reset_state()
        self.accelerator = Accelerator(
            cpu=on_cpu and not zero,  # with `cpu` Accelerate leaves DeepSpeed out
            kwargs_handlers=handlers if launched > 1 or zero else [],
            deepspeed_plugin=plugin,
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

    def exchange(self, values: Sequence[float]) -> Tensor:
        """(world_size, len(values)) float64: the values of every rank, in one message of each step."""
        own = torch.tensor(values, dtype=torch.float64)
        if self._control is None:
            return own[None]
        rows = [torch.empty_like(own) for _ in range(self.world_size)]
        torch_distributed.all_gather(rows, own, group=self._control)
        return torch.stack(rows)

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

    def on_main(self, work: Callable[[], Result]) -> Result:
        """What `work` returns on the main process, on every rank. Its AdhmrError is raised by all of them."""
        outcome: tuple[Any, str | None] = (None, None)
        failure: AdhmrError | None = None
        if self.is_main:
            try:
                outcome = (work(), None)
            except AdhmrError as error:
                outcome, failure = (None, str(error)), error
        if self._control is not None:
            outcomes = [outcome]
            torch_distributed.broadcast_object_list(outcomes, src=0, group=self._control)
            outcome = outcomes[0]
        result, message = outcome
        if message is not None:
            raise failure if failure is not None else AdhmrError(message)
        return result

    def barrier(self) -> None:
        """Nobody goes on before all are here."""
        self.on_main(lambda: None)

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


def _be_alone() -> None:
    """The environment of a launcher that started this process alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    for name, value in {**alone, "MASTER_PORT": str(port)}.items():
        os.environ.setdefault(name, value)
