"""Run a training stage: its task, its data in exact order, the trainer. The same code for every task."""

from __future__ import annotations

import os
from importlib import import_module

from adhmr.body.body_model import body_hash
from adhmr.config.alignment import DpoStage
from adhmr.config.common import TrainingStage
from adhmr.config.regressor import RegressorStage
from adhmr.config.stages import BaseStage, ScorerStage
from adhmr.data.stream import open_sets
from adhmr.models.weights import weights_hash
from adhmr.training.data import ShardData, data_of
from adhmr.training.task import Task
from adhmr.training.trainer import Trainer

TASKS: dict[type[TrainingStage], str] = {
    BaseStage: "adhmr.training.tasks.base:BaseTask",
    ScorerStage: "adhmr.training.tasks.scorer:ScorerTask",
    RegressorStage: "adhmr.training.tasks.regressor:RegressorTask",
    DpoStage: "adhmr.training.tasks.dpo:DpoTask",
}

DATA_PLAN = ("workers", "period", "block", "window", "phases", "skip_ranges")

WEIGHT_FILES = ("base", "base_ema", "reference", "encoder_weights", "mean_betas")

# The trainer looks at optim and train itself, adhmr.data.step_plan at the sets and their mixtures; weights and bodies
# count by their hash, not by place. Only scorers and regressors learn from the body; other tasks just validate with it.
NO_PART_OF_THE_RESULT = {
    "output": True,
    "threads": True,
    "resources": True,
    "train": True,
    "optim": True,
    "tracking": True,
    "distributed": True,
    "profile": True,
    "body": True,
    **dict.fromkeys(WEIGHT_FILES, True),
    "validation": True,
    "validation_limit": True,
    "preferences": True,
    "reference_errors": True,
    **dict.fromkeys(DATA_PLAN, True),
    "data": {"sets": True, **dict.fromkeys(DATA_PLAN, True)},
}


def build_task(config: TrainingStage) -> Task:
    """The task of a stage, with the first weights of its model."""
    module, name = TASKS[type(config)].split(":")
    return getattr(import_module(module), name)(config)


def run_stage(config: TrainingStage) -> None:
    """Train to the end, or from where a former process of this run folder stopped."""
    data = data_of(config)
    readers = open_sets(data)
    task = build_task(config)
    stream = ShardData(readers, data, config.train, config.seed, task.transform(), config.output / "quarantine.jsonl")
    settings = config.model_dump(mode="json", exclude=NO_PART_OF_THE_RESULT)
    weights = {name: getattr(config, name, None) for name in WEIGHT_FILES}
    read = {name: weights_hash(path) for name, path in weights.items() if path is not None}
    if isinstance(config, ScorerStage | RegressorStage):
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
        identity={"stage": settings, "weights": read},
        profile=config.profile,
    )
    metrics = trainer.fit()
    for name, value in metrics.items() if int(os.environ.get("RANK", "0")) == 0 else ():
        print(f"{config.output}: {name} {value:.1f}", flush=True)
