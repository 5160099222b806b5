"""A run as it lives in these processes: network, optimizer, average and numbers, saved to checkpoints and put back.

The loop that moves it on is in loop.py; how it is spread over the processes in strategy.py.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adhmr.config.training import DistributedConfig, OptimConfig, TrainConfig
from adhmr.errors import AdhmrError
from adhmr.training.activation_checkpointing import checkpoint_activations
from adhmr.training.checkpoint import CheckpointStore, differences
from adhmr.training.checkpoint_folder import Checkpoint
from adhmr.training.data import TrainingData
from adhmr.training.distributed import Distribution
from adhmr.training.ema import WeightAverage
from adhmr.training.frozen import copied
from adhmr.training.meter import IntervalMeter
from adhmr.training.run_state import RunState
from adhmr.training.spikes import SpikeDetector
from adhmr.training.strategy import strategy_class
from adhmr.training.task import Task


class LiveRun:
    """Built anew in every process of every attempt, at the task's first weights; `resume` puts it where a former one
    was. `copy`, on the main process: a whole network of the task's structure that evaluations and exports fill."""

    def __init__(
        self,
        task: Task,
        data: TrainingData,
        train: TrainConfig,
        optim: OptimConfig,
        distributed: DistributedConfig,
        distribution: Distribution,
        store: CheckpointStore,
        identity: Mapping[str, Any],
    ):
        self.data, self.train, self.distribution = data, train, distribution
        self.store, self.identity = store, dict(identity)
        module = task.model.to(distribution.device)
        task.prepare(distribution.device)
        # Before the network is cut, compiled or cast.
        self.copy: nn.Module | None = None
        if distribution.is_main:
            self.copy = copied(module).float().eval().requires_grad_(False)
        optimizer = torch.optim.AdamW(
            [{"lr_scale": 1.0, **group} for group in task.parameter_groups()],
            lr=optim.lr,
            betas=optim.betas,
            eps=optim.eps,
            weight_decay=optim.weight_decay,
            fused=True,
        )
        if train.activation_checkpointing:
            checkpoint_activations(task.checkpointed_blocks())
        if train.compile:
            module.compile()
        strategy = strategy_class(distributed)
        self.strategy = strategy(distribution, distributed, train, optim.clip_norm, module, optimizer)
        self.average: WeightAverage | None = None
        if train.ema_decay is not None:
            former = task.initial_average()
            self.average = WeightAverage(self.strategy.held_weights(), train.ema_decay, former is not None)
            if former is not None:
                self.average.load(self.strategy.cut(former))
        self.state = RunState()
        self.meter = IntervalMeter(distribution)
        self.spikes = None if train.spikes is None else SpikeDetector(train.spikes)

    def averaged_weights(self) -> dict[str, Tensor]:
        """Whole, on the main process; those of training where there is no average. All ranks call it."""
        return self.strategy.whole(self.strategy.held_weights() if self.average is None else self.average.held)

    def resume(self, folder: Path) -> None:
        """Goes on from a checkpoint. Raises AdhmrError when it is another run's, or of more steps than train.steps."""
        checkpoint = self.store.load(folder)
        changed = differences(checkpoint.config, self.identity)
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise AdhmrError(
                f"{folder} is a checkpoint of another run ({'; '.join(changed[:3])}{more}); "
                "choose another run folder, or put the former values back"
            )
        if checkpoint.step > self.train.steps:
            raise AdhmrError(f"{folder} is beyond train.steps={self.train.steps}; choose another run folder")
        self.data.resume(checkpoint.state["data"])
        self._put_back(checkpoint)

    def go_back(self, folder: Path, first: int, stop: int) -> None:
        """To an earlier checkpoint of this run, without the samples that steps first to stop - 1 took. The checkpoints
        after it are deleted, and it is saved anew, so that a restart leaves the same samples out."""
        rewinds = self.state.rewinds + 1
        self._put_back(self.store.load(folder))
        self.state.rewinds = rewinds
        self.data.leave_out(first, stop, self.state.step)
        self.distribution.on_main(lambda: self.store.discard_after(self.state.step))
        self.save(wait=True)

    def save(self, wait: bool) -> None:
        """Saves behind the training's back, or, with `wait`, until it is on the disk. All ranks call it."""
        state = self.state
        record = {
            **state.record(),
            "interval": self.meter.state(),
            "spikes": None if self.spikes is None else self.spikes.state(),
            "world_size": self.distribution.world_size,
            "data": self.data.state_dict(state.step),
        }
        model = self.strategy.whole(self.strategy.held_weights())
        ema = None if self.average is None else self.strategy.whole(self.average.held)
        optimizer = self.strategy.optimizer_state()
        evaluation = state.evaluation if state.evaluated_step == state.step else {}

        def save() -> None:
            self.store.save(Checkpoint(state.step, model, ema, optimizer, record, self.identity), evaluation)
            if wait:
                self.store.wait()

        self.distribution.on_main(save)

    def _put_back(self, checkpoint: Checkpoint) -> None:
        """All but the data."""
        self.strategy.load(checkpoint.model, checkpoint.optimizer)
        if self.average is not None:
            self.average.load(self.strategy.cut(checkpoint.ema))
        self.state = RunState.of({**checkpoint.state, "step": checkpoint.step})
        self.meter.load_state(checkpoint.state["interval"])
        if self.spikes is not None:
            self.spikes.load_state(checkpoint.state["spikes"])
