"""Configuration of training data: which shard folders in which proportion, how people are cropped and augmented.

The code that reads it is adhmr/data/stream.py and transforms.py.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from adhmr.config.base import StrictModel

Fraction = Annotated[float, Field(ge=0, le=1)]


class CropConfig(StrictModel):
    """The network crop around a person: square, or taller than wide."""

    size: int = Field(128, ge=16, description="height of the network crop, pixels")
    aspect: float = Field(1.0, gt=0, le=1, description="its width over its height; 1: square, .75: HMR-Scorer's")
    padding: float = Field(1.5, ge=1, description="the box over the tight box of the joints, made of the crop's aspect")

    @property
    def width(self) -> int:
        """Pixels of the network crop."""
        return round(self.size * self.aspect)


class AugmentConfig(StrictModel):
    """Random changes of the training crop; the defaults are HypoNet's."""

    scale: Fraction = Field(0.3, description="box scale: normal about 1 with this deviation, cut at 1 ± it")
    rotation_degrees: float = Field(30.0, ge=0, le=90, description="in-plane rotation: normal deviation, cut at twice")
    rotation_probability: Fraction = 0.6
    flip_probability: Fraction = 0.5
    colour: Fraction = Field(0.2, description="each channel is multiplied by a uniform number of 1 ± this")
    occlusion_probability: Fraction = Field(0.5, description="of a rectangle of noise of up to 0.3 of the box")
    shift: Fraction = Field(0.0, description="box centre: uniform within ± this part of the box's side")


class DataSetConfig(StrictModel):
    """One shard folder."""

    path: str
    weight: float = Field(1.0, gt=0, description="share of the mixture, relative to the other sets'")
    name: str | None = Field(None, description="keys the order of its samples; the folder's name when not given")
    labels: list[Literal["depth", "betas", "leaves", "twists"]] | None = Field(
        None, description="what is supervised beside the 24 joints in 2-D; null: all that its records have"
    )
    padding: float | None = Field(None, ge=1, description="of its crops, in place of crop.padding")
    occlusion_probability: Fraction | None = Field(None, description="in place of augment.occlusion_probability")

    @property
    def set_name(self) -> str:
        """The name that its samples carry."""
        return self.name or Path(self.path).resolve().name


class DataConfig(StrictModel):
    """A mixture of shard folders and the stream over it."""

    sets: list[DataSetConfig] = Field(min_length=1)
    crop: CropConfig = CropConfig()
    augment: AugmentConfig | None = AugmentConfig()
    workers: int = Field(1, ge=0, description="loader processes for each rank; 0 loads in the training process")
    period: int = Field(4096, ge=1, description="positions in which the mixture's proportions are exact")
    block: int = Field(64, ge=1, description="consecutive rows that stay near each other in the order")
    window: int = Field(64, ge=1, description="blocks whose rows are shuffled together")
    skip_ranges: list[tuple[int, int]] = Field([], description="positions [first, stop) to leave out")
    max_corrupt_fraction: Fraction = Field(0.01, description="of substituted samples, above which the run ends")

    @model_validator(mode="after")
    def _names_differ(self) -> "DataConfig":
        names = [item.set_name for item in self.sets]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"two sets are called {repeated[0]}: give one of them another `name`")
        return self
