"""Configuration of training data: which shard folders in which proportion, how people are cropped and augmented.

The code that reads it is adhmr/data/stream.py and transforms.py.
"""

from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from adhmr.config.base import StrictModel

Fraction = Annotated[float, Field(ge=0, le=1)]
# A local folder or a URL that fsspec opens (s3://, gs://, https://); a Path would fold "//" into "/".
ShardFolder = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value)]


def folder_name(path: str | Path) -> str:
    """The last part of a local path or URL: what a data set is called unless it is given a name."""
    return PurePosixPath(str(path)).name if "://" in str(path) else Path(path).resolve().name


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


class FilterConfig(StrictModel):
    """Which samples of a data set are used; evaluated once by `adhmr data filter`, never while training."""

    min_box: float | None = Field(
        None, gt=0, description="longer side of the tight box of the known body joints, pixels of the stored image"
    )
    min_joints: int | None = Field(
        None, ge=1, le=24, description="body joints with a confidence above 0 inside the stored image"
    )
    min_score: Fraction | None = Field(None, description="score in the file `scores`; samples without a score go")
    scores: str | None = Field(None, description="scores.npz of a clean stage over this data set")
    exclude: str | None = Field(None, description="a text file, one key a line: these samples go")

    @model_validator(mode="after")
    def _complete(self) -> "FilterConfig":
        if (self.min_score is None) != (self.scores is None):
            raise ValueError("min_score and scores come together: the limit, and the scores.npz that it is about")
        if not self.model_dump(exclude_none=True):
            raise ValueError("a filter needs at least one of min_box, min_joints, min_score with scores, exclude")
        return self


class DataSetConfig(StrictModel):
    """One shard folder."""

    path: ShardFolder
    weight: float = Field(1.0, ge=0, description="share of the first mixture, relative to the others'; 0: not in it")
    name: str | None = Field(None, description="keys the order of its samples; the folder's name when not given")
    labels: list[Literal["depth", "betas", "leaves", "twists"]] | None = Field(
        None, description="what is supervised beside the 24 joints in 2-D; null: all that its records have"
    )
    padding: float | None = Field(None, ge=1, description="of its crops, in place of crop.padding")
    occlusion_probability: Fraction | None = Field(None, description="in place of augment.occlusion_probability")
    filter: FilterConfig | None = Field(None, description="of its samples; null: all of them")

    @property
    def set_name(self) -> str:
        """The name that its samples carry."""
        return self.name or folder_name(self.path)

    @property
    def settings(self) -> dict:
        """What its samples depend on beside what its files hold (a filter is in the fingerprint); JSON types."""
        return self.model_dump(mode="json", exclude={"path", "weight", "name", "filter"})


class PhaseConfig(StrictModel):
    """A change of the mixture or of the global batch in the middle of a run."""

    from_step: int = Field(gt=0, description="the first step that is drawn otherwise")
    weights: dict[str, Annotated[float, Field(gt=0)]] | None = Field(
        None, min_length=1, description="the whole mixture from there on, by names of sets; null: it goes on as it is"
    )
    global_batch: int | None = Field(None, gt=0, description="samples a step from there on; null: as many as before")

    @model_validator(mode="after")
    def _changes_something(self) -> "PhaseConfig":
        if self.weights is None and self.global_batch is None:
            raise ValueError(f"the phase from step {self.from_step} on changes nothing: set weights or global_batch")
        return self


class DataConfig(StrictModel):
    """A mixture of shard folders and the stream over it."""

    sets: list[DataSetConfig] = Field(min_length=1)
    crop: CropConfig = CropConfig()
    augment: AugmentConfig | None = AugmentConfig()
    workers: int = Field(1, ge=0, description="loader processes for each rank; 0 loads in the training process")
    period: int = Field(4096, ge=1, description="positions in which the mixture's proportions are exact")
    block: int = Field(64, ge=1, description="consecutive rows that stay near each other in the order")
    window: int = Field(64, ge=1, description="blocks whose rows are shuffled together")
    phases: list[PhaseConfig] = Field([], description="what changes at which step, in order of steps")
    skip_ranges: list[tuple[int, int]] = Field([], description="positions [first, stop) to leave out")
    max_corrupt_fraction: Fraction = Field(0.01, description="of substituted samples, above which the run ends")

    @model_validator(mode="after")
    def _names_differ(self) -> "DataConfig":
        names = [item.set_name for item in self.sets]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"two sets are called {repeated[0]}: give one of them another `name`")
        return self

    @model_validator(mode="after")
    def _phases_follow(self) -> "DataConfig":
        names = {item.set_name for item in self.sets}
        if not any(item.weight for item in self.sets):
            raise ValueError("every set has weight 0: at least one must be drawn from the first step on")
        steps = [phase.from_step for phase in self.phases]
        if steps != sorted(set(steps)):
            raise ValueError(f"phases begin at steps {steps}: expected rising steps, one phase each")
        for phase in self.phases:
            unknown = sorted(set(phase.weights or {}) - names)
            if unknown:
                raise ValueError(
                    f"the phase from step {phase.from_step} on weighs '{unknown[0]}', which is none of the sets "
                    f"{sorted(names)}; name it in sets too, with weight 0"
                )
        return self
