"""Stage generate: from a base model and a way of ranking to preference shards (paper section 4.3)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from adhmr.config.base import StrictModel
from adhmr.config.common import HypothesesStage, LedgerConfig
from adhmr.config.data import CropConfig, ShardFolder, folder_name

Ranking = Literal["scorer", "error", "random", "mode", "mean", "joints2d", "joints3d", "truth"]
Strategy = Literal["random", "best_worst", "margin"]


class GenerateSet(StrictModel):
    path: ShardFolder
    # Each ranking gives a folder <set>-<ranking>. scorer: the reward model; error: PVE, for exact labels (studio);
    # random: the control; mode, mean, joints2d, joints3d: closeness to the zero-noise hypothesis, to the mean one, to
    # the encoder's own 2-D joints, to those and its depths;
    # truth: no ranking but the released code's studio pair, the exact label against the zero-noise hypothesis
    rankings: list[Ranking] = Field(min_length=1)
    stride: int = Field(1, gt=0)  # every stride-th sample
    limit: int | None = None  # at most so many of them


class GenerateStage(HypothesesStage):
    """Sample hypotheses, rank them, pair them, write preference shards (paper section 4.3)."""

    shares_work: ClassVar[bool] = True

    stage: Literal["generate"]
    base: Path
    scorer: Path | None = None
    sets: list[GenerateSet]
    crop: CropConfig
    hypotheses: int = Field(50, gt=0)  # M
    pairs: int = Field(5, gt=0)  # K
    # random: the top K with the bottom K by chance; best_worst: the i-th best with the i-th worst; margin: any better
    # with any worse one, drawn in proportion to their difference
    strategy: Strategy = "random"
    # By ranking, in the unit of its values (raw score, metres, pixels): smallest difference within a pair
    margin: dict[Ranking, Annotated[float, Field(ge=0)]] = {}
    # By ranking: smallest value of a winner, for scorer as a score sigmoid(5 raw) in [0, 1]
    confidence: dict[Ranking, float] = {}
    distinct: float = Field(0.0, ge=0)  # pixels: hypotheses nearer than this to a better one are not used
    keep: Literal["pairs", "all"] = "pairs"  # all: also the M hypotheses with their values, for group objectives
    # The frozen encoder's features beside the pairs. Maps in half precision, or as the encoder gave them.
    features: Literal["none", "fp16", "fp32"] = "fp16"
    images_per_batch: int = Field(16, gt=0)  # in one call of the encoder
    hypotheses_per_call: int = Field(800, gt=0)  # in one call of the denoiser or the scorer: bounds their memory
    unit: int = Field(250, gt=0)  # images a work unit: one shard of output
    precision: Literal["fp32", "bf16"] = "fp32"  # of encoder, denoiser and scorer
    ledger: LedgerConfig = LedgerConfig()

    @model_validator(mode="after")
    def _check_hypotheses(self) -> GenerateStage:
        ranked = {ranking for chosen in self.sets for ranking in chosen.rankings} - {"truth"}
        if ranked and self.hypotheses < 2:
            raise ValueError(f"hypotheses is 1, but ranking {min(ranked)} compares two; only truth does with one")
        if "scorer" in ranked and self.scorer is None:
            raise ValueError("ranking scorer needs a reward model: set scorer to its weights")
        return self

    @field_validator("margin", "confidence", mode="before")
    @classmethod
    def _check_by_ranking(cls, guard: Any) -> Any:
        if isinstance(guard, int | float):  # units differ: one number cannot be meant for a score and for metres
            raise ValueError(f"expected a number for each ranking, as {{scorer: {guard}}}, got {guard}")
        return guard

    @model_validator(mode="after")
    def _check_guards(self) -> GenerateStage:
        ranked = {ranking for chosen in self.sets for ranking in chosen.rankings}
        for key, guard in (("margin", self.margin), ("confidence", self.confidence)):
            for ranking in sorted(set(guard) - ranked):
                raise ValueError(f"{key}.{ranking}: no set is ranked by {ranking}; leave it out")
        for ranking, least in self.confidence.items():
            if ranking == "truth":
                raise ValueError("confidence.truth: the winners are labels; leave it out")
            if ranking == "scorer" and not 0 <= least <= 1:
                raise ValueError(f"confidence.scorer is {least}: it is a score, sigmoid(5 raw), from 0 to 1")
            if ranking not in ("scorer", "random") and least > 0:
                raise ValueError(f"confidence.{ranking} is {least}: a value is minus a distance, at most 0")
        return self

    @model_validator(mode="after")
    def _check_folders(self) -> GenerateStage:
        folders = [f"{folder_name(chosen.path)}-{name}" for chosen in self.sets for name in chosen.rankings]
        repeated = sorted({name for name in folders if folders.count(name) > 1})
        if repeated:
            raise ValueError(f"sets: two make the folder {repeated[0]}; give one of the source folders another name")
        return self
