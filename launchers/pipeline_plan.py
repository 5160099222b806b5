"""From the pipeline file to the runs it stands for, in order, each with its configuration and its fingerprint.

Nothing is run or written here, and no run folder is looked at.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from adhmr.config.common import StageConfig
from adhmr.config.entry_points import STAGES
from adhmr.config.loading import load_config
from adhmr.config.stages import Stage
from adhmr.errors import AdhmrError
from launchers.code_version import code_files
from launchers.pipeline_config import PipelineConfig, PipelineStage
from launchers.pipeline_placeholders import filled, with_variables
from launchers.pipeline_siblings import siblings_moved
from launchers.stage_inputs import content, paths_read
from launchers.stage_record import Fingerprint, digest

NO_PART_OF_THE_RESULT = {"threads", "tracking", "resources", "ledger"}


class PlannedStage:
    """A run of a stage: its resolved configuration, and the fingerprint of that, its code, and all that it reads."""

    def __init__(self, stage: str, name: str, config: StageConfig, inputs: list[PlannedStage], outside: dict[str, str]):
        """stage: its name in the file; outside: hashes of the files it reads that no stage of the pipeline makes."""
        self.stage, self.name, self.config, self.inputs = stage, name, config, inputs
        self.folder = Path(config.output)
        self.left_out: list[LeftOut] = []  # runs that read its result and that nobody asked for
        given = config.model_dump(mode="json", exclude=NO_PART_OF_THE_RESULT, exclude_defaults=True)
        whole = config.model_dump(mode="json", exclude=NO_PART_OF_THE_RESULT)
        # A default belongs to the code: a new key is another version of the code, not another setting.
        code = {**code_files(STAGES[config.stage].split(":")[0]), "defaults": digest(_without(whole, given))[:12]}
        self.parts = {**code, **{f"input {path}": found for path, found in outside.items()}}
        self.fingerprint = Fingerprint(
            digest([given, outside, [one.fingerprint.settings for one in inputs]]),
            digest([code, [one.fingerprint.code for one in inputs]]),
        )

    def __repr__(self) -> str:
        return f"PlannedStage({self.name})"


@dataclass(frozen=True)
class LeftOut:
    """A run of the pipeline that is not planned, because only others were asked for."""

    name: str
    folder: Path


def plan_pipeline(path: Path, overrides: list[str], wanted: Collection[str] = ()) -> list[PlannedStage]:
    """The runs of a pipeline in order. Overrides are `stage.key=value`; `output=FOLDER`, `rounds=N` and
    `VARIABLE=VALUE` are the pipeline's.

    wanted: stages, or runs of them, that are planned with what they need; none: all.

    Raises:
        AdhmrError: an unknown stage in `after`, in an override or in `wanted`, a stage's configuration is wrong, or it
            reads what a stage makes that it does not come after.
    """
    pipeline = _load(path, overrides)
    drafts = list(_drafts(path, pipeline, overrides))
    folders: dict[str, str] = {}  # folder of a run -> its stage
    for stage, name, *_ in drafts:
        if name in folders:
            raise AdhmrError(f"{path}: a run of stage {stage.name} and one of {folders[name]} are both called {name}")
        folders[name] = stage.name
    inputs_of = {name: inputs for _, name, _, inputs in drafts}
    needed = _needed(drafts, wanted, inputs_of)
    planned: dict[str, PlannedStage] = {}
    for stage, name, config, inputs in drafts:
        if name not in needed:
            for read in _all_before(name, inputs_of) & set(planned):
                planned[read].left_out.append(LeftOut(name, Path(config.output)))
            continue
        outside = _outside(path, name, config, pipeline.output, folders, _all_before(name, inputs_of))
        planned[name] = PlannedStage(stage.name, name, config, [planned[one] for one in inputs], outside)
    return list(planned.values())


def _load(path: Path, overrides: list[str]) -> PipelineConfig:
    """The pipeline's file with its own overrides; those of stages are checked for a stage of that name."""

    def first(text: str) -> str:
        return text.split("=")[0].split(".")[0]

    own = [text for text in overrides if first(text) in set(PipelineConfig.model_fields) - {"variables"}]
    variables = load_config(path, own, PipelineConfig).variables
    own += [f"variables.{text}" for text in overrides if first(text) in variables]
    pipeline = with_variables(path, load_config(path, own, PipelineConfig))
    names = [stage.name for stage in pipeline.stages]
    for text in overrides:
        if text in own or first(text) in variables:
            continue
        if first(text) not in names:
            also = f", the variables {', '.join(variables)}" if variables else ""
            raise AdhmrError(f"override {text}: no stage of that name; the stages are {', '.join(names)}{also}")
        if "." not in text.split("=")[0]:
            raise AdhmrError(f"override {text}: expected stage.key=value, for example {first(text)}.seed=1")
    return pipeline


def _needed(drafts: list[Draft], wanted: Collection[str], inputs_of: dict[str, list[str]]) -> set[str]:
    """Names of the runs that are asked for and of those that they read, directly or through others."""
    if not wanted:
        return set(inputs_of)
    needed: set[str] = set()
    for one in wanted:
        runs = [name for stage, name, *_ in drafts if one in (stage.name, name)]
        if not runs:
            names = ", ".join(dict.fromkeys(stage.name for stage, *_ in drafts))
            raise AdhmrError(f"--for {one}: no stage of that name; expected one of {names}")
        needed |= {before for name in runs for before in (name, *_all_before(name, inputs_of))}
    return needed


Draft = tuple[PipelineStage, str, StageConfig, list[str]]  # the stage, and of a run: name, configuration, inputs


def _drafts(path: Path, pipeline: PipelineConfig, overrides: list[str]) -> Iterator[Draft]:
    made: dict[tuple[str, int | None], list[str]] = {}  # (stage, round) -> names of its runs
    for number, stage in _in_order(pipeline):
        inputs = []
        for name in stage.after:
            found = [
                runs for (other, of), runs in made.items() if other == name and (of in (None, number) or not number)
            ]
            if not found:
                raise AdhmrError(f"{path}: stage {stage.name} comes after {name}, which no earlier stage is called")
            inputs.extend(one for runs in found for one in runs)
        if number is not None and number > 1:
            inputs.extend(one for name in stage.after_former for one in made[name, number - 1])
        fill: dict[str, Any] = {"output": pipeline.output, **pipeline.variables}
        if number is not None:
            fill |= {"round": number, "former": number - 1}
            handed = {name: text.first if number == 1 else text.then for name, text in pipeline.handed_on.items()}
            fill |= {name: filled(text, fill, f"{path}: handed_on") for name, text in handed.items()}
        mine = [text.split(".", 1)[1] for text in overrides if text.split(".")[0] == stage.name]
        runs = made[stage.name, number] = []
        for chosen in itertools.product(*stage.for_each.values()):
            of_a_round = [] if number is None else [f"r{number}"]
            name = "-".join([stage.name, *of_a_round, *map(str, chosen)])
            rounds = None if stage.each_round else pipeline.rounds
            values = dict(stage.values)
            for cases, case in zip(stage.for_each.values(), chosen):
                values |= cases[case] if isinstance(cases, dict) else {}
            given = filled(values, {**fill, **dict(zip(stage.for_each, chosen))}, "values", rounds)
            texts = [
                f"{key}={json.dumps(value)}" for key, value in {"output": str(pipeline.output / name), **given}.items()
            ]
            file, earlier = path.parent / stage.config, {one for names in made.values() for one in names}
            config = load_config(file, [*texts, *mine], TypeAdapter(Stage))  # JSON is YAML
            chosen = [text.split("=")[0] for text in (*texts, *mine)]
            moved = siblings_moved(file, config, pipeline.output, earlier, chosen)
            if moved:
                config = load_config(file, [*texts, *moved, *mine], TypeAdapter(Stage))
            runs.append(name)
            yield stage, name, config, list(dict.fromkeys(inputs))


def _in_order(pipeline: PipelineConfig) -> Iterator[tuple[int | None, PipelineStage]]:
    """(round, stage): the stages as in the file, those of a round once a round, all of a round before the next."""
    inside = [stage for stage in pipeline.stages if stage.each_round]
    for stage in pipeline.stages:
        if not stage.each_round:
            yield None, stage
        elif stage is inside[0]:
            yield from itertools.product(range(1, (pipeline.rounds or 0) + 1), inside)


def _all_before(name: str, inputs: dict[str, list[str]]) -> set[str]:
    """The runs whose results are there when `name` starts."""
    before: set[str] = set()
    waiting = [name]
    while waiting:
        new = set(inputs[waiting.pop()]) - before
        before |= new
        waiting.extend(new)
    return before


def _outside(
    path: Path, name: str, config: StageConfig, output: Path, folders: dict[str, str], before: set[str]
) -> dict[str, str]:
    """Hashes of the files and data sets that a run reads and no run of the pipeline makes."""
    found = {}
    for key, text in paths_read(config):
        inside = "://" not in text and os.path.relpath(text, output).split(os.sep)[0]
        if inside in folders and inside not in before:
            raise AdhmrError(
                f"{path}: {name} reads {text} ({key}), which stage {folders[inside]} makes: add {folders[inside]} "
                f"to its `after`, or the two may run at the same time"
            )
        if inside in folders:
            continue
        if inside and not os.path.exists(text):
            raise AdhmrError(f"{path}: {name}: {key}: {text} does not exist, and no stage makes it; correct the path")
        there = content(text)
        found |= {} if there is None else {text: there}
    return found


def _without(whole: Any, given: Any) -> Any:
    """What `whole` has beside `given`: the values that were not set."""
    if isinstance(whole, list) and isinstance(given, list):
        return [_without(*items) for items in zip(whole, given)]
    if not isinstance(whole, dict) or not isinstance(given, dict):
        return None
    return {key: _without(value, given[key]) if key in given else value for key, value in whole.items()}
