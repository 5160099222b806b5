"""What a run folder says about its training run, for the commands that read one. The trainer writes it."""

from pathlib import Path

from pydantic import TypeAdapter

from adhmr.config.common import TrainingStage
from adhmr.config.loading import load_config
from adhmr.config.stages import Stage
from adhmr.errors import AdhmrError
from adhmr.training.checkpoint import CheckpointStore


def config_of(run: Path) -> TrainingStage:
    """Raises AdhmrError when it is no folder of a training run."""
    config = load_config(run / "config.yaml", [], TypeAdapter(Stage))
    if not config.trains:
        raise AdhmrError(f"{run} is a run of stage {config.stage}: expected a base, scorer, regressor or dpo run")
    return config


def store_of(run: Path) -> CheckpointStore:
    """The checkpoints of a run, to look at."""
    train = config_of(run).train
    return CheckpointStore(run / "checkpoints", train.keep_last, train.keep_every, train.best_metric, train.best_mode)
