"""Configuration of the deterministic regressor's two stages: its training and its evaluation. The network itself is in
model.py, what the stages do in adhmr/training/tasks/regressor.py and adhmr/evaluation/regressors.py."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from adhmr.config.base import StrictModel
from adhmr.config.common import StageConfig, TrainingStage, check_crop
from adhmr.config.data import DataConfig, DataSetConfig, ShardFolder, folder_name
from adhmr.config.losses import RegressionWeights
from adhmr.config.model import RegressorConfig
from adhmr.config.protocol import ProtocolConfig


class RegressorStage(TrainingStage):
    """Train a regressor: the subject of data cleaning (paper section 5.4)."""

    stage: Literal["regressor"]
    data: DataConfig
    validation: DataSetConfig | None = None
    validation_limit: int = 200
    model: RegressorConfig
    loss: RegressionWeights = RegressionWeights()
    encoder_weights: Path | None = None  # initial encoder: an exported encoder, or weights that hold one
    freeze_encoder: bool = False
    encoder_lr_scale: float = Field(1.0, ge=0)  # the backbone's share of the learning rate
    encoder_head_lr_scale: float = Field(1.0, ge=0)  # of the encoder's other layers

    @model_validator(mode="after")
    def _check_model(self) -> RegressorStage:
        check_crop(self.data.crop, self.model.crop_size)
        return self


class EvaluatedRegressor(StrictModel):
    name: str
    weights: Path
    group: str | None = None  # regressors of one group are seeds of one method in the table


class EvaluatedSet(StrictModel):
    path: ShardFolder
    name: str | None = None  # in the table; the folder's name when not given
    limit: int | None = Field(None, gt=1)  # first samples only
    padding: float | None = Field(None, ge=1)  # of its crops; null: what each regressor's file says that it learnt with
    protocol: ProtocolConfig = ProtocolConfig()  # its joints and its stride; a regressor has no candidates and no root

    @property
    def title(self) -> str:
        return self.name or folder_name(self.path)


class RegressorsStage(StageConfig):
    """Errors of several regressors on several labelled sets (the paper's Table 5)."""

    stage: Literal["regressors"]
    models: list[EvaluatedRegressor] = Field(min_length=1)
    sets: list[EvaluatedSet] = Field(min_length=1)
    regressor: Path | None = None  # J_regressor_h36m.npy of the body; for protocols that count Human3.6M's joints
    images_per_batch: int = Field(32, gt=0)

    @model_validator(mode="after")
    def _names_differ(self) -> RegressorsStage:
        for kind, names in (("models", [m.name for m in self.models]), ("sets", [s.title for s in self.sets])):
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise ValueError(f"two of {kind} are called {repeated[0]}: give one of them another `name`")
        return self

    @model_validator(mode="after")
    def _check_protocols(self) -> RegressorsStage:
        annotated = [item for item in self.sets if item.protocol.joints == "h36m14"]
        if annotated and self.regressor is None:
            title = annotated[0].title
            raise ValueError(f"set {title} counts joints h36m14: regressor must name J_regressor_h36m.npy")
        if self.regressor is not None and not annotated:
            raise ValueError("no set counts joints h36m14: regressor must be null")
        if official := [item.title for item in self.sets if item.protocol.candidates == "official"]:
            raise ValueError(f"set {official[0]}: official candidates are chosen by a scorer; a regressor has one body")
        return self
