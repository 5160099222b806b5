"""Which function tells a report about a finished stage. Each kind of stage has a file of its own, which makes
paragraphs and parts from the files that the stage left, and from nothing else."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

from adhmr.evaluation.sections import Part


@dataclass(frozen=True)
class SectionKind:
    title: str
    finished: str  # a stage of this kind is finished when its folder has such a file; a pattern
    function: str  # "module:function", (folder, metric) -> (paragraphs, parts); imported when there is such a stage


# kind of stage -> its section; a report has them in this order
KINDS = {
    "evaluate": SectionKind("errors", "figures.json", "adhmr.evaluation.evaluation_section:section"),
    "scorers": SectionKind("scorers", "figures.json", "adhmr.evaluation.scorers_section:section"),
    "regressors": SectionKind("regressors", "figures.json", "adhmr.evaluation.regressors_section:section"),
    "clean": SectionKind("cleaning", "figures.json", "adhmr.evaluation.cleaning_section:section"),
    "report": SectionKind("pictures", "figures.json", "adhmr.evaluation.pictures_section:section"),
}


def section_of(kind: str, folder: Path, metric: str) -> tuple[list[str], list[Part]]:
    """Paragraphs and parts of one stage; `metric`: of tables that show one error, as the metrics are called there."""
    module, function = KINDS[kind].function.split(":")
    return getattr(importlib.import_module(module), function)(folder, metric)
