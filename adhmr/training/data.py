"""The samples of a run as its trainer asks for them: by step, with the state that a checkpoint keeps.

Which samples a step takes is in adhmr.data.step_plan; reading them in adhmr.data.stream.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from adhmr.config.alignment import DpoStage
from adhmr.config.common import TrainingStage
from adhmr.config.data import DataConfig
from adhmr.config.training import TrainConfig
from adhmr.data.shard_reader import ShardReader
from adhmr.data.step_plan import StepPlan
from adhmr.data.steps import BatchSizes, micro_batches
from adhmr.data.stream import Transform, build_stream, make_plan
from adhmr.errors import AdhmrError
from adhmr.training.task import Batch


def data_of(config: TrainingStage) -> DataConfig:
    """The mixture that a stage trains on; preference sets of a DPO stage become one like any other."""
    if not isinstance(config, DpoStage):
        return config.data
    try:
        return DataConfig(
            sets=config.data_sets,
            workers=config.workers,
            period=config.period,
            phases=config.phases,
            skip_ranges=config.skip_ranges,
        )
    except ValidationError as error:  # no preferences at all, or two folders of one name
        raise AdhmrError(f"preferences: {error.errors()[0]['msg']}") from None


class TrainingData(Protocol):
    """What the trainer needs of its data: the batches of each step, and a state that goes into checkpoints."""

    sizes: BatchSizes  # the global batch of every step

    def description(self) -> dict[str, Any]:
        """What was asked for, JSON-serialisable; a part of what decides the final weights."""

    def stream(self, start_step: int, rank: int, world_size: int) -> Iterator[Batch]:
        """This rank's micro-batches from a step on; as many a step as adhmr.data.steps.micro_batches says."""

    def state_dict(self, step: int) -> dict[str, Any]:
        """What a checkpoint of `step` keeps, JSON-serialisable."""

    def resume(self, state: Mapping[str, Any]) -> None:
        """Goes on from such a state. Raises AdhmrError when it is another run's."""

    def leave_out(self, first_step: int, stop_step: int, step: int) -> None:
        """A run that went back to `step` will not take the samples again that first_step to stop_step - 1 took."""


class ShardData:
    """TrainingData from shard folders: a mixture that may change at steps; what a step takes is a function of it."""

    def __init__(
        self,
        readers: Sequence[ShardReader],
        config: DataConfig,
        train: TrainConfig,
        seed: int,
        transform: Transform,
        quarantine: Path | None = None,
    ) -> None:
        self.readers, self.config, self.train = list(readers), config, train
        self.transform, self.quarantine = transform, quarantine
        self.step_plan = StepPlan(make_plan(readers, config, seed), train.global_batch, config.phases)

    @property
    def sizes(self) -> BatchSizes:
        return self.step_plan.sizes

    def description(self) -> dict[str, Any]:
        return self.step_plan.description()

    def stream(self, start_step: int, rank: int, world_size: int) -> Iterator[Batch]:
        return build_stream(
            self.readers,
            self.step_plan.plan,
            self.transform,
            global_batch=self.sizes,
            micro_batch=self.train.micro_batch,
            rank=rank,
            world_size=world_size,
            start_step=start_step,
            stop_step=self.train.steps,
            workers=self.config.workers,
            quarantine=self.quarantine,
            max_corrupt_fraction=self.config.max_corrupt_fraction,
        )

    def state_dict(self, step: int) -> dict[str, Any]:
        return self.step_plan.state_dict(step)

    def resume(self, state: Mapping[str, Any]) -> None:
        self.step_plan = self.step_plan.resumed(state)

    def leave_out(self, first_step: int, stop_step: int, step: int) -> None:
        """Streams from now on are without the samples that steps first_step to stop_step - 1 would take; `step` is the
        one that the run is at. Raises AdhmrError for steps that it has passed."""
        self.step_plan = self.step_plan.without_steps(first_step, stop_step, step)


def check_batches(sizes: BatchSizes, micro_batch: int | None, world_size: int) -> None:
    """Raise AdhmrError unless the global batch of every phase divides among the processes."""
    for step, _ in sizes.changes:
        micro_batches(sizes, step, micro_batch, world_size)
