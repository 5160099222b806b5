"""Stages that measure finished models: evaluate (base models), scorers (reward models), report (tables and pictures).

What they do is in adhmr.evaluation; by what rules errors are counted is in protocol.py."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, model_validator

from adhmr.config.base import StrictModel
from adhmr.config.common import HypothesesStage
from adhmr.config.data import CropConfig, ShardFolder
from adhmr.config.generation import Ranking
from adhmr.config.losses import NoiseConfig
from adhmr.config.protocol import ProtocolConfig


class EvaluatedModel(StrictModel):
    name: str
    weights: Path
    group: str | None = None  # models of one group are seeds of one method in the tables
    round: int | None = Field(None, ge=0)  # of alignment, 0 the base: errors are then shown by round too


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
    def _check_rounds(self) -> EvaluateStage:
        methods: dict[int, str] = {}
        for model in self.models:
            method = model.group or model.name
            if model.round is not None and methods.setdefault(model.round, method) != method:
                raise ValueError(
                    f"models: '{methods[model.round]}' and '{method}' are both round {model.round}; expected one model "
                    "or one group a round"
                )
        return self

    @model_validator(mode="after")
    def _check_protocol(self) -> EvaluateStage:
        if (self.protocol.joints == "h36m14") != (self.regressor is not None):
            needed = "must be null" if self.regressor else "must name J_regressor_h36m.npy (an .npz for other bodies)"
            raise ValueError(f"protocol {self.protocol.name} counts joints {self.protocol.joints}: regressor {needed}")
        if self.protocol.candidates == "official" and self.scorer is None:
            raise ValueError(f"protocol {self.protocol.name} has candidates that a scorer chooses: set scorer")
        return self


class EvaluatedScorer(StrictModel):
    name: str
    weights: Path
    group: str | None = None  # scorers of one group are seeds of one method in the tables


class ScoredSet(StrictModel):
    name: str
    path: ShardFolder
    padding: float | None = Field(None, ge=1)  # of all crops of this set; null: the scorer's own, and crop.padding
    limit: int | None = Field(None, gt=0)


class ScorersStage(HypothesesStage):
    """How well several scorers tell errors apart: of disturbed ground truths, and of a base model's own hypotheses."""

    stage: Literal["scorers"]
    scorers: list[EvaluatedScorer] = Field(min_length=1)
    sets: list[ScoredSet] = Field(min_length=1)  # labelled: pose, shape and depth
    noise: dict[str, NoiseConfig] = {}  # name -> disturbance of the pooled test (paper section 5.1)
    disturbed: int = Field(1, gt=0)  # ground truths an image and noise
    base: Path | None = None  # whose hypotheses are ranked too
    crop: CropConfig | None = None  # the base model's
    hypotheses: int = Field(50, gt=1)  # M of the base model, an image
    pairs: int = Field(5, gt=0)  # K: the top K against the bottom K, as generation pairs them
    images_per_batch: int = Field(16, gt=0)
    hypotheses_per_call: int = Field(800, gt=0)  # in one call of the denoiser or a scorer: bounds their memory
    precision: Literal["fp32", "bf16"] = "fp32"

    @model_validator(mode="after")
    def _check_names(self) -> ScorersStage:
        for key, names in (("scorers", [s.name for s in self.scorers]), ("sets", [s.name for s in self.sets])):
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise ValueError(f"{key}: two are called {repeated[0]}; give each a name of its own")
        for taken in sorted({name for s in self.scorers for name in (s.name, s.group)} & set(get_args(Ranking))):
            raise ValueError(f"scorers: '{taken}' is a ranking that is measured beside them; choose another name")
        return self

    @model_validator(mode="after")
    def _check_parts(self) -> ScorersStage:
        if self.base is None and not self.noise:
            raise ValueError("nothing to measure on: set noise (disturbed truths), base (its hypotheses) or both")
        if (self.base is None) != (self.crop is None):
            raise ValueError("base and crop come together: the base model, and the size and padding of its crops")
        if self.base is not None and self.hypotheses < 2 * self.pairs:
            raise ValueError(f"hypotheses is {self.hypotheses}, pairs {self.pairs}: expected at least twice as many")
        return self


class ReportStage(HypothesesStage):
    """Tables, plots and pictures from finished runs, as one HTML file that opens without a network."""

    stage: Literal["report"]
    title: str
    evaluation: Path  # folder of a finished evaluate stage
    others: list[Path] = []  # of further finished stages that measure, or of pipelines
    runs: list[Path] = []
    baseline: str = "base"
    metric: Literal["pve", "mpjpe", "pa_pve", "pa_mpjpe"] = "pve"  # of the table with a line a method
    data: ShardFolder
    crop: CropConfig
    pictures: int = Field(12, ge=0)  # random images
    extremes: int = Field(6, ge=0)  # worst images, largest gains and largest losses, of each so many
    page: Path | None = None  # where the report goes; output/report.html when not given
    compared: list[EvaluatedModel] = []  # drawn; gains and losses are those of the last one
