"""Run a training stage: its task, its data in exact order, the trainer. The same code for every task."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

from pydantic import ValidationError

from adhmr.body.body_model import body_hash
from adhmr.config.data import DataConfig
from adhmr.config.stages import BaseStage, DpoStage, ScorerStage, TrainingStage
from adhmr.data.stream import build_stream, make_plan, open_sets
from adhmr.errors import AdhmrError
from adhmr.models.weights import weights_hash
from adhmr.training.task import Batch, Task
from adhmr.training.trainer import Trainer

TASKS: dict[type[TrainingStage], str] = {
    BaseStage: "adhmr.training.tasks.base:BaseTask",
    ScorerStage: "adhmr.training.tasks.scorer:ScorerTask",
    DpoStage: "adhmr.training.tasks.dpo:DpoTask",
}

# The trainer looks at optim and train itself; data sets count by their content, weights and bodies by their hash, not
# by place. Only a scorer learns from the body; the other tasks just validate with it.
NO_PART_OF_THE_RESULT = {
    "output": True,
    "threads": True,
    "train": True,
    "optim": True,
    "tracking": True,
    "distributed": True,
    "body": True,
    "base": True,
    "base_ema": True,
    "encoder_weights": True,
    "mean_betas": True,
    "preferences": {"__all__": {"path", "weight"}},
    "workers": True,
    "validation": True,
    "validation_limit": True,
    "data": {"sets": {"__all__": {"path", "weight", "name"}}, "workers": True},
}


def data_of(config: TrainingStage) -> DataConfig:
    """The mixture that a stage trains on; preference sets of a DPO stage become one like any other."""
    if not isinstance(config, DpoStage):
        return config.data
    try:
        return DataConfig(sets=config.data_sets, workers=config.workers, period=config.period)
    except ValidationError as error:  # no preferences at all, or two folders of one name
        raise AdhmrError(f"preferences: {error.errors()[0]['msg']}") from None


def run_stage(config: TrainingStage) -> None:
    """Train to the end, or from where a former process of this run folder stopped."""
    data = data_of(config)
    readers = open_sets(data)
    plan = make_plan(readers, data, config.seed)
    module, name = TASKS[type(config)].split(":")
    task: Task = getattr(import_module(module), name)(config)
    transform = task.transform()

    def stream(start_step: int, rank: int, world_size: int) -> Iterator[Batch]:
        return build_stream(
            readers,
            plan,
            transform,
            global_batch=config.train.global_batch,
            micro_batch=config.train.micro_batch_size(world_size),
            rank=rank,
            world_size=world_size,
            start_step=start_step,
            stop_step=config.train.steps,
            workers=data.workers,
            quarantine=config.output / "quarantine.jsonl",
            max_corrupt_fraction=data.max_corrupt_fraction,
        )

    settings = config.model_dump(mode="json", exclude=NO_PART_OF_THE_RESULT)
    weights = {name: getattr(config, name, None) for name in ("base", "base_ema", "encoder_weights", "mean_betas")}
    read = {name: weights_hash(path) for name, path in weights.items() if path is not None}
    if isinstance(config, ScorerStage):
        read["body"] = body_hash(config.body)
    trainer = Trainer(
        task,
        stream,
        config.train,
        config.optim,
        config.tracking,
        config.distributed,
        config.output,
        config.seed,
        identity={"stage": settings, "weights": read, "data": plan.state_dict()},
    )
    metrics = trainer.fit()
    for name, value in metrics.items():
        print(f"{config.output}: {name} {value:.1f}", flush=True)
