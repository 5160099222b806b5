"""Stage dpo: a base model aligned with preference shards (paper equation 5)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from adhmr.config.base import StrictModel
from adhmr.config.common import TrainingStage
from adhmr.config.data import AugmentConfig, DataSetConfig, Fraction, PhaseConfig, ShardFolder


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
