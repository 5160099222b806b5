"""The pipeline file: stages, what comes after what, and what belongs to a round. The runs: pipeline_plan.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from adhmr.config.base import StrictModel

EACH_ROUND = "each_round"
FOR_EACH, ITEM = "for_each", "item"


class PipelineStage(StrictModel):
    """One run, or one for each combination of `for_each` values and, if it belongs to a round, for each round.

    In strings of `values`, {output} stands for the pipeline's folder, {NAME} for the value of that name in `for_each`
    or for a variable of the pipeline; in a stage of a round, {round} for its number, from 1, {former} for the number
    before, and {NAME} for what `handed_on` calls so. An item {each_round: ITEM} of a list, in a stage of no round,
    stands for one ITEM a round; an item {for_each: {NAME: [...]}, item: ITEM} for one ITEM a combination. `config` and
    `for_each` know the pipeline's variables alone.

    In place of a list, `for_each` may name cases: {NAME: {CASE: {dotted key: value}}}: {NAME} is the case, whose values
    are put over `values`.
    """

    name: str = Field(pattern=r"^[\w-]+$")  # a folder's name
    config: Path  # relative to the pipeline's file
    after: list[str] = []  # names of stages whose results this one reads; within a round, those of the same round
    each_round: bool = False  # belongs to a round: NAME-r1, NAME-r2, ...
    after_former: list[str] = []  # names of stages whose results of the former round it reads; in round 1 nothing
    for_each: dict[str, list[Any] | dict[str, dict[str, Any]] | str] = {}  # a text: the {NAME} of a variable
    values: dict[str, Any] = {}  # dotted key -> value, over those of the stage's file


class HandedOn(StrictModel):
    """What a round takes over from the one before, as a text with {output}, {round} and {former}."""

    first: str  # in round 1
    then: str  # from round 2 on


class PipelineConfig(StrictModel):
    name: str
    output: Path  # every stage writes to output/<stage name>
    variables: dict[str, Any] = {}  # placeholder -> what it stands for everywhere; NAME=VALUE on the command line
    rounds: int | None = Field(None, gt=0)  # how often the stages with each_round are run
    handed_on: dict[str, HandedOn] = {}  # placeholder -> what it stands for in the stages of a round
    stages: list[PipelineStage]

    @model_validator(mode="after")
    def _check_names(self) -> PipelineConfig:
        names = [stage.name for stage in self.stages]
        repeated = [name for name in names if names.count(name) > 1]
        if repeated:
            raise ValueError(f"two stages are called {repeated[0]}; their folders would be one")
        return self

    @model_validator(mode="after")
    def _check_variables(self) -> PipelineConfig:
        taken = dict.fromkeys(type(self).model_fields, "a key of a pipeline")
        taken |= dict.fromkeys(("round", "former"), "a placeholder of rounds")
        taken |= dict.fromkeys(self.handed_on, "in handed_on")
        for stage in self.stages:
            taken |= {stage.name: "the name of a stage"} | dict.fromkeys(stage.for_each, f"in for_each of {stage.name}")
        for name in self.variables:
            if not name.isidentifier():
                raise ValueError(f"variables: '{name}' is no name; use letters, digits and underscores")
            if name in taken:
                raise ValueError(f"variables: {name} is {taken[name]} already; give the variable another name")
        return self

    @model_validator(mode="after")
    def _check_rounds(self) -> PipelineConfig:
        inside = [number for number, stage in enumerate(self.stages) if stage.each_round]
        if bool(inside) != (self.rounds is not None):
            there, missing = ("each_round: true", "rounds") if inside else ("rounds", "stage with each_round: true")
            raise ValueError(f"there is {there}, but no {missing}")
        if inside and inside != list(range(inside[0], inside[-1] + 1)):
            raise ValueError("the stages with each_round: true must stand together in the file")
        names = {self.stages[number].name for number in inside}
        for stage in self.stages:
            if stage.after_former and not stage.each_round:
                raise ValueError(f"stage {stage.name}: after_former is for stages with each_round: true")
            unknown = [name for name in stage.after_former if name not in names]
            if unknown:
                raise ValueError(
                    f"stage {stage.name}: after_former names {unknown[0]}, which no stage of a round is called"
                )
        if self.handed_on and not inside:
            raise ValueError("handed_on is for pipelines with rounds")
        return self
