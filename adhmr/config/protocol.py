"""Evaluation protocols: what counts as an error and over which candidates. One name chooses all switches; the switches
are here once, the code that follows them is adhmr/evaluation/protocol.py and adhmr/preference/mesh_errors.py."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from adhmr.config.base import StrictModel

_ON_SKELETON = {"joints": "smpl24", "pa_joints": 24, "candidates": "strict", "stride": 1, "root": "oracle"}
_ON_3DPW = {**_ON_SKELETON, "joints": "h36m14", "pa_joints": 14}
_ON_H36M = {**_ON_3DPW, "pa_joints": 17}
_AS_RELEASED = {"candidates": "official", "stride": 10}

PRESETS: dict[str, dict[str, Any]] = {
    "smpl24": _ON_SKELETON,
    "3dpw": _ON_3DPW,
    "h36m": _ON_H36M,
    "3dpw-official": {**_ON_3DPW, **_AS_RELEASED},
    "h36m-official": {**_ON_H36M, **_AS_RELEASED},
}


class ProtocolConfig(StrictModel):
    """A named protocol. Keys beside the name replace the preset's."""

    name: Literal["smpl24", "3dpw", "h36m", "3dpw-official", "h36m-official"] = "smpl24"
    # smpl24: the skeleton's 24 joints, of both meshes. h36m14: 14 of Human3.6M's 17 joints, regressed from the mesh,
    # against those that the data set annotates
    joints: Literal["smpl24", "h36m14"]
    pa_joints: Literal[14, 17, 24]  # joints that PA-MPJPE aligns; of 17, the 14 are averaged
    # strict: minima over exactly M hypotheses. official: over M + 2, with the mean of the scorer's top five and of all
    candidates: Literal["strict", "official"]
    stride: int = Field(gt=0)  # every so many samples of the set are evaluated
    root: Literal["oracle", "estimated"]  # depth of the root: the label's, or found from each hypothesis alone

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        # An unknown name gets some preset, so that it is the only mistake reported.
        preset = PRESETS.get(str(values.get("name", "smpl24")), _ON_SKELETON)
        return {**preset, **values}

    @model_validator(mode="after")
    def _check_alignment(self) -> ProtocolConfig:
        if (self.joints == "smpl24") != (self.pa_joints == 24):
            fitting = "24" if self.joints == "smpl24" else "14 or 17"
            raise ValueError(f"pa_joints is {self.pa_joints}, but joints {self.joints} need {fitting}")
        return self

    @property
    def title(self) -> str:
        """The name, and what differs from its preset: `3dpw (root estimated)`."""
        preset = PRESETS[self.name]
        changes = [f"{key} {getattr(self, key)}" for key in preset if getattr(self, key) != preset[key]]
        return f"{self.name} ({', '.join(changes)})" if changes else self.name
