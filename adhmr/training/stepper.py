"""One optimizer step: micro-batches, gradients, clipping, the update and the average, or a step that is skipped.

When to log, save and evaluate is in trainer.py; how gradients and weights are spread over processes in strategy.py.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from adhmr.config.training import OptimConfig, TrainConfig
from adhmr.data.steps import BatchSizes, micro_batches
from adhmr.errors import AdhmrError
from adhmr.training.ema import WeightAverage
from adhmr.training.flops import StepFlops
from adhmr.training.guards import NonFiniteGuard
from adhmr.training.profiler import StepProfiler
from adhmr.training.run_state import RunState
from adhmr.training.schedule import set_learning_rate
from adhmr.training.strategy import Strategy
from adhmr.training.task import Batch, Task
from adhmr.training.watchdog import Watchdog


@dataclass(frozen=True)
class Step:
    """What a step was, on this rank. `values`: its loss, their parts and the gradient norm, scalars on the device."""

    applied: bool
    loss: float
    values: dict[str, Tensor]
    lr: float
    samples: int  # over all ranks
    seconds: float
    waited: float  # seconds of it, for data
    alone: float | None  # seconds of it before the first wait for another rank, where there was any work before it


class Stepper:
    """Makes the steps of a run, one call each."""

    def __init__(
        self,
        task: Task,
        strategy: Strategy,
        average: WeightAverage | None,
        guard: NonFiniteGuard,
        flops: StepFlops,
        profiler: StepProfiler,
        watchdog: Watchdog,
        train: TrainConfig,
        optim: OptimConfig,
        seed: int,
    ):
        self.task, self.strategy, self.average = task, strategy, average
        self.guard, self.flops, self.profiler, self.watchdog = guard, flops, profiler, watchdog
        self.train, self.optim, self.seed = train, optim, seed

    def __call__(self, stream: Iterator[Batch], sizes: BatchSizes, state: RunState) -> Step:
        """One step over accumulated micro-batches; counts it in `state`.

        Raises AdhmrError: the stream ended, or too many steps in a row were skipped.
        """
        self.profiler.step(state.step)
        started = time.perf_counter()
        distribution = self.strategy.distribution
        lr = set_learning_rate(self.strategy.optimizer, self.optim, self.train.steps, state.step)
        distribution.seed_step(self.seed, state.step)
        micro, accumulation = micro_batches(sizes, state.step, self.train.micro_batch, distribution.world_size)
        self.guard.note_statistics()
        waited, alone = 0.0, None
        batches: list[Batch] = []
        values: dict[str, Tensor] = {}  # scalars, means over the step's micro-batches
        for number in range(1, accumulation + 1):
            asked = time.perf_counter()
            self.watchdog.beat(state.step, "data")
            batch = next(stream, None)
            waited += time.perf_counter() - asked
            if batch is None:
                raise AdhmrError(
                    f"the data stream ended at step {state.step} of {self.train.steps}; it must be endless"
                )
            batches.append(batch)
            self.watchdog.beat(state.step, "compute")
            with self.flops.counting(micro), self.strategy.micro_step(last=number == accumulation):
                loss, parts = self.task.loss(self.strategy.model, _to_device(batch, distribution.device))
                if not self.strategy.ranks_meet_in_forward:
                    alone = time.perf_counter() - started  # gradients are exchanged in the last backward pass
                self.strategy.backward(loss / accumulation)
            for name, value in {"loss": loss, **parts}.items():
                values[name] = values.get(name, 0.0) + value.detach().float() / accumulation
        self.watchdog.beat(state.step, "update")
        values["grad_norm"], applied = self.strategy.step()

        if applied:
            state.skipped_in_a_row = 0
            if self.average is not None:
                self.average.update(self.strategy.held_weights(), state.updates)
            state.updates += 1
        else:
            self.guard.skip(state, values["loss"].item(), float(values["grad_norm"]), batches)
        state.step += 1
        loss_here = values["loss"].item()
        seconds = time.perf_counter() - started
        return Step(applied, loss_here, values, lr, sizes.at(state.step - 1), seconds, waited, alone)


def _to_device(batch: Batch, device: torch.device) -> Batch:
    return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}
