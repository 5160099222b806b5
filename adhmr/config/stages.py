"""One typed configuration a stage. A stage is one YAML file whose `stage:` key chooses the class here; what a stage
does with its configuration lives elsewhere (adhmr.cli maps stages to code)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from adhmr.config.base import StrictModel
from adhmr.config.data import (
    AugmentConfig,
    CropConfig,
    DataConfig,
    DataSetConfig,
    Fraction,
    PhaseConfig,
    ShardFolder,
    folder_name,
)
from adhmr.config.losses import DenoisingWeights, NoiseConfig, RankingWeights
from adhmr.config.model import BaseModelConfig, ScorerConfig, ViTConfig
from adhmr.config.protocol import ProtocolConfig
from adhmr.config.resources import ResourcesConfig
from adhmr.config.training import DistributedConfig, OptimConfig, ProfileConfig, TrackingConfig, TrainConfig


class StageConfig(StrictModel):
    """What every stage has."""

    output: Path  # the run folder; everything the stage writes is inside it
    seed: int = 0
    threads: int = Field(0, ge=0)  # CPU threads of tensor operations; 0 leaves torch's own choice
    body: Path | None = None  # a body file in SMPL's format; null: the open body of the package
    resources: ResourcesConfig = ResourcesConfig()  # of its jobs on a cluster (adhmr submit); no part of the result

    @model_validator(mode="after")
    def _check_resources(self) -> StageConfig:
        if self.resources.processes > 1 and not isinstance(self, TrainingStage):
            raise ValueError("resources: nodes and tasks_per_node are for stages that train; this one is one process")
        if self.resources.array is not None and not isinstance(self, GenerateStage):
            raise ValueError("resources.array is for stage generate; no other shares its work among several jobs")
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
        return self


# ------------------------------------------------------------------------------------------------ preferences
class GenerateSet(StrictModel):
    path: ShardFolder
    # Each ranking gives a folder <set>-<ranking>. scorer: the reward model; error: PVE, for exact labels (studio);
    # random: the control; mode, joints2d: closeness to the zero-noise hypothesis, to the encoder's own 2-D joints;
    # truth: no ranking but the released code's studio pair, the exact label against the zero-noise hypothesis
    rankings: list[Literal["scorer", "error", "random", "mode", "joints2d", "truth"]] = Field(min_length=1)
    stride: int = Field(1, gt=0)  # every stride-th sample
    limit: int | None = None  # at most so many of them


class LedgerConfig(StrictModel):
    """How workers share the units of a stage. No result depends on it."""

    lease_seconds: float = Field(120.0, ge=1)  # without a sign of life, before others take over a worker's unit
    attempts: int = Field(3, gt=0)  # that may end in an error before a unit is given up


class GenerateStage(HypothesesStage):
    """Sample hypotheses, rank them, pair them, write preference shards (paper section 4.3)."""

    stage: Literal["generate"]
    base: Path
    scorer: Path | None = None
    sets: list[GenerateSet]
    crop: CropConfig
    hypotheses: int = Field(50, gt=0)  # M
    pairs: int = Field(5, gt=0)  # K
    margin: float = 0.0  # smallest difference of the ranking value within a pair (raw score, metres, or pixels)
    features: bool = True  # store the frozen encoder's features beside the pairs
    images_per_batch: int = 16
    unit: int = Field(250, gt=0)  # images a work unit: one shard of output
    precision: Literal["fp32", "bf16"] = "fp32"
    ledger: LedgerConfig = LedgerConfig()

    @model_validator(mode="after")
    def _check_hypotheses(self) -> GenerateStage:
        ranked = {ranking for chosen in self.sets for ranking in chosen.rankings} - {"truth"}
        if ranked and self.hypotheses < 2:
            raise ValueError(f"hypotheses is 1, but ranking {min(ranked)} compares two; only truth does with one")
        if "scorer" in ranked and self.scorer is None:
            raise ValueError("ranking scorer needs a reward model: set scorer to its weights")
        return self

    @model_validator(mode="after")
    def _check_folders(self) -> GenerateStage:
        folders = [f"{folder_name(chosen.path)}-{name}" for chosen in self.sets for name in chosen.rankings]
        repeated = sorted({name for name in folders if folders.count(name) > 1})
        if repeated:
            raise ValueError(f"sets: two make the folder {repeated[0]}; give one of the source folders another name")
        return self


class PreferenceSet(StrictModel):
    path: ShardFolder
    weight: float = Field(1.0, ge=0)  # share of the first mixture; 0: not in it
    occlusion_probability: Fraction | None = None  # in place of augment.occlusion_probability


class DpoStage(TrainingStage):
    """Align a base model with preference shards (paper equation 5). docs/training.md says where paper and released code
    differ in a key."""

    stage: Literal["dpo"]
    base: Path
    base_ema: Path | None = None  # the base's averaged weights, where the average starts; null: at the policy's own
    preferences: list[PreferenceSet]
    period: int = 64
    phases: list[PhaseConfig] = []  # as data.phases, by names of folders
    skip_ranges: list[tuple[int, int]] = []  # as data.skip_ranges
    pairs_per_image: int = Field(1, gt=0)
    augment: AugmentConfig | None = None  # of the stored crops; pairs move with them
    workers: int = 1
    objective: Literal["dpo", "kto"] = "dpo"
    beta: float = 100.0
    norm: Literal["group", "single"] = "group"  # group: joints and twists apart (code); single: one norm (paper)
    noise: Literal["shared", "independent"] = "shared"  # of winner and loser: one noise (code), or one each (paper)
    mask: Literal["full", "labels"] = "full"  # what counts of the 133 numbers: all, or what the label knows (code)
    winner_weight: float = 0.0  # adds the winner's own denoising error
    desirable_weight: float = 1.0  # kto: of the samples that show a winner
    undesirable_weight: float = 1.0  # kto: of the samples that show a loser
    train_encoder: bool = False  # false: the denoiser alone (paper); true: the encoder too (code)
    encoder_lr_scale: float = Field(1.0, ge=0)  # of an encoder that trains, as in the base stage
    encoder_head_lr_scale: float = Field(1.0, ge=0)
    validation: DataSetConfig | None = None
    validation_limit: int = 200
    validation_padding: float = 1.25  # of the crops, as in training

    @property
    def data_sets(self) -> list[DataSetConfig]:
        """The preferences as the data sets that their folders are."""
        return [
            DataSetConfig(path=item.path, weight=item.weight, occlusion_probability=item.occlusion_probability)
            for item in self.preferences
        ]

    @model_validator(mode="after")
    def _check_switches(self) -> DpoStage:
        if self.base_ema is not None and not self.train_encoder:
            raise ValueError("base_ema needs train_encoder: true; with a frozen encoder, base is the averaged weights")
        if self.base_ema is not None and self.train.ema_decay is None:
            raise ValueError("base_ema is where the average starts, but train.ema_decay is null: there is none")
        if self.objective == "kto" and self.noise == "independent":
            raise ValueError("noise: independent needs objective: dpo; kto shows a winner or a loser, never both")
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
    pictures: int = Field(24, gt=0)  # best and worst labels on the contact sheet, as many of each
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


# ------------------------------------------------------------------------------------------------ evaluation
class EvaluatedModel(StrictModel):
    name: str
    weights: Path
    group: str | None = None  # models of one group are seeds of one method in the tables


class EvaluateStage(HypothesesStage):
    """Errors of several models on one labelled set, with the same noise for all."""

    stage: Literal["evaluate"]
    data: ShardFolder
    limit: int | None = None
    crop: CropConfig
    models: list[EvaluatedModel]
    scorer: Path | None = None
    protocol: ProtocolConfig = ProtocolConfig()
    regressor: Path | None = None  # J_regressor_h36m.npy of the body; for protocols that count Human3.6M's joints
    hypotheses: list[int] = [10, 100, 200]  # the values of M in the tables; the largest is sampled
    scorer_noise: dict[str, NoiseConfig] = {}  # name -> noise of the pooled scorer test (paper section 5.1)
    images_per_batch: int = 16
    precision: Literal["fp32", "bf16"] = "fp32"

    @model_validator(mode="after")
    def _check_hypotheses(self) -> EvaluateStage:
        if not self.hypotheses or min(self.hypotheses) < 1 or max(self.hypotheses) < 2:
            raise ValueError("hypotheses needs positive numbers, the largest at least 2 (rankings compare hypotheses)")
        return self

    @model_validator(mode="after")
    def _check_protocol(self) -> EvaluateStage:
        if (self.protocol.joints == "h36m14") != (self.regressor is not None):
            needed = "must be null" if self.regressor else "must name J_regressor_h36m.npy (an .npz for other bodies)"
            raise ValueError(f"protocol {self.protocol.name} counts joints {self.protocol.joints}: regressor {needed}")
        if self.protocol.candidates == "official" and self.scorer is None:
            raise ValueError(f"protocol {self.protocol.name} has candidates that a scorer chooses: set scorer")
        return self


class ReportStage(HypothesesStage):
    """Tables and pictures from finished runs, as one HTML file that opens without a network."""

    stage: Literal["report"]
    title: str
    evaluation: Path
    runs: list[Path] = []
    baseline: str = "base"
    data: ShardFolder
    crop: CropConfig
    pictures: int = 12
    page: Path | None = None  # where the report goes; output/report.html when not given
    compared: list[EvaluatedModel] = []


Stage = Annotated[
    SynthStage | BaseStage | ScorerStage | GenerateStage | DpoStage | CleanStage | EvaluateStage | ReportStage,
    Field(discriminator="stage"),
]
