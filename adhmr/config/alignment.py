"""Stages dpo, a base model aligned with preference shards (paper equation 5), and reference, what the frozen reference
says of them, computed before."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from adhmr.config.base import StrictModel
from adhmr.config.common import LedgerConfig, TrainingStage
from adhmr.config.data import AugmentConfig, DataSetConfig, Fraction, PhaseConfig, ShardFolder

Weighting = Literal["constant", "min_snr", "elbo"]
Showing = Literal["pair", "side", "winner", "group"]
SHOWINGS: dict[str, Showing] = {  # what an objective sees of an image at a time
    "dpo": "pair",
    "ipo": "pair",
    "kto": "side",  # a winner or a loser, as a coin falls
    "sft": "winner",
    "plackett_luce": "group",
    "advantage": "group",
}


class PreferenceSet(StrictModel):
    path: ShardFolder
    weight: float = Field(1.0, ge=0)  # share of the first mixture; 0: not in it
    occlusion_probability: Fraction | None = None  # in place of augment.occlusion_probability


class LoraConfig(StrictModel):
    """Low-rank adapters on linear layers of the denoiser's blocks, in place of training all its weights."""

    rank: int = Field(8, gt=0)
    alpha: float = Field(16.0, gt=0)  # what an adapter adds is scaled by alpha / rank
    dropout: float = Field(0.0, ge=0, lt=1)  # of an adapter's input
    targets: list[Literal["query", "key", "value", "output", "linear1", "linear2"]] = Field(
        ["query", "key", "value", "output", "linear1", "linear2"], min_length=1
    )  # of the attentions (self and cross) and of the feed-forward


class DpoStage(TrainingStage):
    """Align a base model with preference shards (paper equation 5). docs/training.md says where paper and released code
    differ in a key."""

    stage: Literal["dpo"]
    base: Path
    base_ema: Path | None = None  # the base's averaged weights, where the average starts; null: at the policy's own
    reference: Path | None = None  # the frozen base model of comparison; null: `base`
    preferences: list[PreferenceSet]
    period: int = 64
    phases: list[PhaseConfig] = []  # as data.phases, by names of folders
    skip_ranges: list[tuple[int, int]] = []  # as data.skip_ranges
    pairs_per_image: int = Field(1, gt=0)  # or groups of hypotheses, for the objectives of those
    group_size: int = Field(4, ge=2)  # plackett_luce, advantage: hypotheses of a group
    augment: AugmentConfig | None = None  # of the stored crops; pairs move with them
    # Of the frozen encoder: stored beside the pairs, or made from the images; auto: stored where they are good for it
    features: Literal["auto", "stored", "images"] = "auto"
    reference_errors: Path | None = None  # output of a reference stage; null: the reference runs in every step
    workers: int = 1
    objective: Literal["dpo", "ipo", "kto", "plackett_luce", "advantage", "sft"] = "dpo"
    beta: float = 100.0
    weighting: Weighting = "constant"  # of timesteps, in the errors of policy and reference
    norm: Literal["group", "single"] = "group"  # group: joints and twists apart (code); single: one norm (paper)
    noise: Literal["shared", "independent"] = "shared"  # of winner and loser: one noise (code), or one each (paper)
    mask: Literal["full", "labels"] = "full"  # what counts of the 133 numbers: all, or what the label knows (code)
    winner_weight: float = 0.0  # adds the winner's own denoising error
    desirable_weight: float = 1.0  # kto: of the samples that show a winner
    undesirable_weight: float = 1.0  # kto: of the samples that show a loser
    lora: LoraConfig | None = None  # adapters of the denoiser train, nothing else; null: all its weights
    train_encoder: bool = False  # false: the denoiser alone (paper); true: the encoder too (code)
    encoder_lr_scale: float = Field(1.0, ge=0)  # of an encoder that trains, as in the base stage
    encoder_head_lr_scale: float = Field(1.0, ge=0)
    validation: DataSetConfig | None = None
    validation_limit: int = 200
    validation_padding: float = 1.25  # of the crops, as in training

    @property
    def showing(self) -> Showing:
        return SHOWINGS[self.objective]

    @property
    def compares(self) -> bool:
        """Whether the objective asks for the reference's errors."""
        return self.objective != "sft"

    @property
    def data_sets(self) -> list[DataSetConfig]:
        """The preferences as the data sets that their folders are."""
        return [
            DataSetConfig(path=item.path, weight=item.weight, occlusion_probability=item.occlusion_probability)
            for item in self.preferences
        ]

    @property
    def reference_is_base(self) -> bool:
        """Whether the policy starts at the reference."""
        return self.reference in (None, self.base)

    @model_validator(mode="after")
    def _check_switches(self) -> DpoStage:
        if self.base_ema is not None and not self.train_encoder:
            raise ValueError("base_ema needs train_encoder: true; with a frozen encoder, base is the averaged weights")
        if self.base_ema is not None and self.train.ema_decay is None:
            raise ValueError("base_ema is where the average starts, but train.ema_decay is null: there is none")
        if self.features == "stored" and (self.train_encoder or self.augment is not None):
            raise ValueError(
                "features: stored are the frozen encoder's, of crops as they are: make train_encoder false and augment "
                "null, or features auto"
            )
        if self.lora is not None and self.train_encoder:
            raise ValueError("lora trains adapters of the denoiser alone: train_encoder must be false, or lora null")
        if self.noise == "independent" and self.showing in ("side", "winner"):
            raise ValueError(f"noise: independent is for several hypotheses at once; {self.objective} shows one")
        if self.winner_weight and self.objective == "sft":
            raise ValueError("winner_weight adds the winner's own error, which is what objective: sft is: set it to 0")
        return self


class ReferenceStage(DpoStage):
    """The reference's errors at all positions of a dpo run, for its `reference_errors`. The keys are those of the run
    (`extends:` its file); those that no error of the reference depends on are not read."""

    trains: ClassVar[bool] = False
    shares_work: ClassVar[bool] = True

    stage: Literal["reference"]
    images_per_batch: int = Field(32, gt=0)
    unit: int = Field(4096, gt=0)  # positions a work unit: one file of output
    ledger: LedgerConfig = LedgerConfig()

    @model_validator(mode="after")
    def _check_unit(self) -> ReferenceStage:
        if self.unit % self.images_per_batch:
            raise ValueError(f"unit is {self.unit}, no multiple of images_per_batch {self.images_per_batch}")
        return self
