"""Placeholders in the strings of a pipeline file: what {NAME} stands for is put in its place.

Which names there are in a run is pipeline_plan.py's business.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from adhmr.errors import AdhmrError
from launchers.pipeline_config import EACH_ROUND, FOR_EACH, ITEM, PipelineConfig


def filled(value: Any, fill: dict[str, Any], where: str, rounds: int | None = None) -> Any:
    """`value` with the placeholders in its strings replaced; a string that is one placeholder takes its type.

    rounds: of the pipeline, for the items {each_round: ITEM} of lists; None where there may be none.

    Raises AdhmrError: a placeholder that `fill` does not have.
    """
    if isinstance(value, dict):
        return {key: filled(item, fill, where, rounds) for key, item in value.items()}
    if isinstance(value, list):
        items = []
        for item in value:
            if isinstance(item, dict) and set(item) == {EACH_ROUND} and rounds is not None:
                numbers = range(1, rounds + 1)
                items.extend(filled(item[EACH_ROUND], {**fill, "round": number}, where) for number in numbers)
            elif isinstance(item, dict) and set(item) == {FOR_EACH, ITEM}:
                items.extend(_of_each(item, fill, where, rounds))
            else:
                items.append(filled(item, fill, where, rounds))
        return items
    if not isinstance(value, str):
        return value
    alone = value[1:-1] if value.startswith("{") and value.endswith("}") else None
    try:
        return fill[alone] if alone in fill and alone != "output" else value.format_map(fill)
    except (KeyError, IndexError, ValueError, AttributeError):
        known = ", ".join(fill) or "those of `variables`, of which there are none"
        raise AdhmrError(f"{where}: '{value}' has another placeholder than {known}") from None


def _of_each(item: dict[str, Any], fill: dict[str, Any], where: str, rounds: int | None) -> list[Any]:
    """What {for_each: {NAME: [...]}, item: ITEM} stands for: one ITEM for each combination of the values."""
    given = filled(item[FOR_EACH], fill, where)
    if not isinstance(given, dict) or not all(isinstance(values, list) for values in given.values()):
        raise AdhmrError(f"{where}: for_each of an item is {given!r}; expected lists, for example {{seed: [0, 1, 2]}}")
    chosen = itertools.product(*given.values())
    return [filled(item[ITEM], {**fill, **dict(zip(given, values))}, where, rounds) for values in chosen]


def with_variables(path: Path, pipeline: PipelineConfig) -> PipelineConfig:
    """The pipeline of the file `path` with its variables in `output` and in each stage's `config` and `for_each`.

    Raises AdhmrError: another placeholder, or a `for_each` that is neither list nor cases.
    """
    output = filled(str(pipeline.output), pipeline.variables, f"{path}: output")
    stages = []
    for stage in pipeline.stages:
        where = f"{path}: stage {stage.name}"
        config = filled(str(stage.config), pipeline.variables, f"{where}: config")
        for_each = {
            name: values if isinstance(values, dict) else filled(values, pipeline.variables, f"{where}: for_each")
            for name, values in stage.for_each.items()  # the values of cases may have placeholders of the run
        }
        for name, values in for_each.items():
            if not isinstance(values, list | dict):
                raise AdhmrError(f"{where}: for_each.{name} is {values!r}; expected a list, for example [0, 1, 2]")
        stages.append(stage.model_copy(update={"config": Path(str(config)), "for_each": for_each}))
    return pipeline.model_copy(update={"output": Path(str(output)), "stages": stages})
