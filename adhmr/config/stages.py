"""One typed configuration a stage: a stage is one YAML file whose `stage:` key chooses the class in `Stage`.

What a stage does with it lives elsewhere (entry_points.py maps stages to code). Generation, alignment and evaluation
have files of their own, generation.py, alignment.py and evaluation.py; what stages have in common is in common.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from adhmr.config.alignment import DpoStage, ReferenceStage
from adhmr.config.base import StrictModel
from adhmr.config.common import StageConfig, TrainingStage, check_crop
from adhmr.config.data import DataConfig, DataSetConfig, ShardFolder, folder_name
from adhmr.config.evaluation import EvaluateStage, ReportStage, ScorersStage
from adhmr.config.generation import GenerateStage
from adhmr.config.losses import DenoisingWeights, NoiseConfig, RankingWeights, SampledHypotheses
from adhmr.config.model import BaseModelConfig, ScorerConfig, ViTConfig
from adhmr.config.regressor import RegressorsStage, RegressorStage


# ------------------------------------------------------------------------------------------------ embedded data
class SyntheticSet(StrictModel):
    name: Literal["synth-studio", "synth-game", "synth-wild", "synth-bench"]
    split: str = "train"
    count: int = Field(gt=0)


class SynthStage(StageConfig):
    """Render embedded data sets into output/<name>-<split>/."""

    stage: Literal["synth"]
    sets: list[SyntheticSet]
    processes: int = Field(2, gt=0)
    image_size: int = Field(192, ge=32, le=384)
    samples_per_shard: int = Field(500, gt=0)
    scale: float = Field(1.0, gt=0)  # multiplies every count: one number to make all sets larger or smaller

    @model_validator(mode="after")
    def _check_body(self) -> SynthStage:
        if self.body is not None:
            raise ValueError("body must be null: embedded data show the open body")
        return self


# ------------------------------------------------------------------------------------------------ base model
class BaseStage(TrainingStage):
    """Train HypoNet: image encoder and diffusion denoiser."""

    stage: Literal["base"]
    data: DataConfig
    validation: DataSetConfig | None = None
    validation_limit: int = 200
    model: BaseModelConfig | None = None  # a new model; null: `base` goes on
    base: Path | None = None  # a whole base model to go on from, as it is described in its file
    loss: DenoisingWeights = DenoisingWeights()
    noise_draws: int = Field(1, gt=0)  # (t, noise) pairs an image: more denoiser work for one encoder pass
    encoder_weights: Path | None = None  # initial encoder: an exported encoder or a base model's weights
    mean_betas: Path | None = None  # .npy of 10 numbers that a new hrnet encoder's betas are counted from
    freeze_encoder: bool = False
    encoder_lr_scale: float = Field(1.0, ge=0)  # the backbone's share of the learning rate
    encoder_head_lr_scale: float = Field(1.0, ge=0)  # of the encoder's other layers

    @model_validator(mode="after")
    def _check_start(self) -> BaseStage:
        if (self.model is None) == (self.base is None):
            raise ValueError("expected one of model (a new base model) and base (the weights of one to go on from)")
        if self.base is not None and (self.encoder_weights or self.mean_betas):
            raise ValueError("base is a whole model: encoder_weights and mean_betas are for a new one; make them null")
        if self.model is not None:
            check_crop(self.data.crop, self.model.crop_size)
        return self


# ------------------------------------------------------------------------------------------------ reward model
class ScorerStage(TrainingStage):
    """Train HMR-Scorer by ranking disturbed ground truth."""

    stage: Literal["scorer"]
    data: DataConfig
    model: ScorerConfig
    hypotheses: int = Field(15, gt=1)
    noise: NoiseConfig = NoiseConfig()
    sampled: SampledHypotheses | None = None  # some of the hypotheses are a base model's own
    loss: RankingWeights = RankingWeights()
    metric_vertices: int = 0  # vertices in the vertex errors, evenly strided; 0 takes all
    encoder_weights: Path | None = None
    freeze_encoder: bool = True
    encoder_lr_scale: float = Field(1.0, ge=0)  # of an encoder that trains, as in the base stage
    encoder_head_lr_scale: float = Field(1.0, ge=0)

    @model_validator(mode="after")
    def _check_crop(self) -> ScorerStage:
        check_crop(self.data.crop, self.model.crop_size, self.model.crop_aspect)
        if isinstance(self.model.encoder, ViTConfig) and (self.loss.joints2d or self.loss.heatmap or self.loss.depth):
            raise ValueError("loss.joints2d, heatmap and depth are for encoders that find joints; neck vit does not")
        if self.sampled is not None and self.sampled.count > self.hypotheses - 2:
            raise ValueError(
                f"sampled.count is {self.sampled.count} of {self.hypotheses} hypotheses: keep two disturbed, ranks are "
                "taken within each kind"
            )
        return self


# ------------------------------------------------------------------------------------------------ cleaning
class CleanStage(StageConfig):
    """Score the labels of data sets and keep the good ones (paper section 4.5): a shard folder for each set."""

    stage: Literal["clean"]
    scorer: Path
    sets: list[ShardFolder] = Field(min_length=1)  # labelled: pose, shape and depth
    padding: float | None = Field(None, ge=1)  # of the crops; null: what the scorer's file says that it learnt with
    threshold: float | None = Field(None, ge=0, le=1)  # labels whose score sigmoid(5 raw) is below it are left out
    percentile: float | None = Field(None, ge=0, lt=100)  # instead: this share of each set, the lowest scores
    images_per_batch: int = Field(32, gt=0)
    unit: int = Field(1000, gt=0)  # samples of a unit of work, and of a shard of output
    pictures: int = Field(16, gt=0)  # on the sheets: highest, middle and lowest scores of the kept and of the dropped
    precision: Literal["fp32", "bf16"] = "fp32"

    @model_validator(mode="after")
    def _check_limit(self) -> CleanStage:
        if (self.threshold is None) == (self.percentile is None):
            raise ValueError("expected one of threshold (0.6 is the paper's) and percentile")
        names = [folder_name(path) for path in self.sets]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"two sets are called {repeated[0]}: their outputs would be one folder")
        return self


Stage = Annotated[
    SynthStage
    | BaseStage
    | ScorerStage
    | GenerateStage
    | ReferenceStage
    | DpoStage
    | RegressorStage
    | CleanStage
    | EvaluateStage
    | ScorersStage
    | RegressorsStage
    | ReportStage,
    Field(discriminator="stage"),
]
