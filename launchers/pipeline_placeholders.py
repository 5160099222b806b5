"""Placeholders in the strings of a pipeline file: what {NAME} stands for is put in its place.

Which names there are in a run is pipeline_plan.py's business.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adhmr.errors import AdhmrError
from launchers.pipeline_config import EACH_ROUND, PipelineConfig


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


def with_variables(path: Path, pipeline: PipelineConfig) -> PipelineConfig:
    """The pipeline of the file `path` with its variables in `output` and in each stage's `config` and `for_each`.

    Raises AdhmrError: another placeholder, or a `for_each` that is no list.
    """
    output = filled(str(pipeline.output), pipeline.variables, f"{path}: output")
    stages = []
    for stage in pipeline.stages:
        where = f"{path}: stage {stage.name}"
        config = filled(str(stage.config), pipeline.variables, f"{where}: config")
        for_each = filled(stage.for_each, pipeline.variables, f"{where}: for_each")
        for name, values in for_each.items():
            if not isinstance(values, list):
                raise AdhmrError(f"{where}: for_each.{name} is {values!r}; expected a list, for example [0, 1, 2]")
        stages.append(stage.model_copy(update={"config": Path(str(config)), "for_each": for_each}))
    return pipeline.model_copy(update={"output": Path(str(output)), "stages": stages})
