"""What several stages have in common: where they write, what they sample, how they train, how they share work.

The stages themselves are in stages.py, generation.py and alignment.py."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from adhmr.config.base import StrictModel
from adhmr.config.data import CropConfig
from adhmr.config.resources import ResourcesConfig
from adhmr.config.training import DistributedConfig, OptimConfig, ProfileConfig, TrackingConfig, TrainConfig


class StageConfig(StrictModel):
    """What every stage has."""

    output: Path  # the run folder; everything the stage writes is inside it
    seed: int = 0
    threads: int = Field(0, ge=0)  # CPU threads of tensor operations; 0 leaves torch's own choice
    body: Path | None = None  # a body file in SMPL's format; null: the open body of the package
    resources: ResourcesConfig = ResourcesConfig()  # of its jobs on a cluster (adhmr submit); no part of the result

    trains: ClassVar[bool] = False  # in several processes, if asked to
    shares_work: ClassVar[bool] = False  # among several jobs, by a ledger

    @model_validator(mode="after")
    def _check_resources(self) -> StageConfig:
        if self.resources.processes > 1 and not self.trains:
            raise ValueError("resources: nodes and tasks_per_node are for stages that train; this one is one process")
        if self.resources.array is not None and not self.shares_work:
            raise ValueError("resources.array is for stages that share their work among jobs: generate, reference")
        return self


class SamplerConfig(StrictModel):
    """DDIM sampling of hypotheses; the defaults are the paper's four network calls without fresh noise."""

    steps: int = Field(3, gt=0, le=1000)  # timesteps are range(0, 1000, 1000 // steps): 3 makes four network calls
    eta: float = Field(0.0, ge=0, le=1)  # share of DDPM's fresh noise in each step; 0 is deterministic


class HypothesesStage(StageConfig):
    """What the stages that sample hypotheses and pose bodies by them have in common."""

    sampler: SamplerConfig = SamplerConfig()
    ik: Literal["naive", "adaptive"] = "naive"  # inverse kinematics: naive is the released code's, adaptive HybrIK's


def check_crop(crop: CropConfig, size: int, aspect: float = 1.0) -> None:
    """The data's crops must be of the size and shape that the model is made for."""
    if crop.size != size:
        raise ValueError(f"data.crop.size is {crop.size}, model.crop_size is {size}: they must be equal")
    if crop.aspect != aspect:
        raise ValueError(f"data.crop.aspect is {crop.aspect}, the model's crops have {aspect}: they must be equal")


class TrainingStage(StageConfig):
    """What the three trained stages have in common."""

    trains: ClassVar[bool] = True

    train: TrainConfig
    optim: OptimConfig
    tracking: TrackingConfig = TrackingConfig()
    distributed: DistributedConfig = DistributedConfig()
    profile: ProfileConfig | None = None

    @model_validator(mode="after")
    def _check_compile(self) -> TrainingStage:
        if self.train.compile and self.distributed.strategy == "zero3":
            raise ValueError("train.compile and distributed.strategy zero3 exclude each other: use ddp, zero1 or zero2")
        return self


class LedgerConfig(StrictModel):
    """How workers share the units of a stage. No result depends on it."""

    lease_seconds: float = Field(120.0, ge=1)  # without a sign of life, before others take over a worker's unit
    attempts: int = Field(3, gt=0)  # that may end in an error before a unit is given up
