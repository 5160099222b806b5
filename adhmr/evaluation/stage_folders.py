"""The finished stages that a report tells about, in folders of stages and of pipelines. What is told of them lives in
the file of each kind (section_kinds.py)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from adhmr.errors import AdhmrError
from adhmr.evaluation.section_kinds import KINDS, section_of
from adhmr.evaluation.sections import Section

CONFIG, RECORD = "config.yaml", "stage.json"


@dataclass(frozen=True)
class StageFolder:
    folder: Path
    kind: str
    seconds: float | None  # that its process took; None where no pipeline ran it
    finished: bool
    name: str  # unique in a report


def find_stages(folders: Sequence[Path]) -> list[StageFolder]:
    """The stages in `folders`, each a stage's own folder or one that holds those of a pipeline; of all kinds, by name.

    Raises:
        AdhmrError: a folder is none of both, or the evaluating stages in all of them are not finished.
    """
    found: dict[Path, StageFolder] = {}
    for folder in folders:
        here = [folder] if (folder / CONFIG).is_file() else sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))
        stages = [stage for path in here if (stage := _read(path)) is not None]
        if not stages:
            raise AdhmrError(f"{folder}: no stage has run there; give the output folder of a pipeline or of a stage")
        found |= {stage.folder.resolve(): stage for stage in stages}
    listed = list(found.values())
    if not any(stage.finished for stage in listed if stage.kind in KINDS):
        waited = [f"{stage.folder} ({stage.kind})" for stage in listed if stage.kind in KINDS]
        missing = f"not finished: {', '.join(waited)}; finish them first" if waited else f"expected {', '.join(KINDS)}"
        raise AdhmrError(f"{', '.join(map(str, folders))}: no finished stage to report on; {missing}")
    return _named(listed)


def _read(folder: Path) -> StageFolder | None:
    """None for what is no stage, and for the results that a later run has put aside."""
    if folder.suffix == ".previous":
        return None
    try:
        config = yaml.safe_load((folder / CONFIG).read_text())
        kind = config["stage"]
    except (yaml.YAMLError, TypeError, KeyError):
        return None
    try:
        record = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        record = {}
    finished = record.get("state", "done") == "done"
    if kind in KINDS:
        finished = finished and any(folder.glob(KINDS[kind].finished))
    return StageFolder(folder, kind, record.get("seconds"), finished, folder.resolve().name)


def _named(stages: list[StageFolder]) -> list[StageFolder]:
    """With names of their own: stages of the same name in two pipelines get their pipeline's name before theirs."""
    names = [stage.name for stage in stages]
    full = {n: f"{stage.folder.resolve().parent.name}-{stage.name}" for n, stage in enumerate(stages)}
    chosen = [full[n] if names.count(stage.name) > 1 else stage.name for n, stage in enumerate(stages)]
    for n, name in enumerate(chosen):
        if chosen.count(name) > 1:
            others = ", ".join(str(stage.folder) for stage, other in zip(stages, chosen) if other == name)
            raise AdhmrError(f"{stages[n].folder}: several stages would be called {name} ({others}); report on one")
    return [
        StageFolder(stage.folder, stage.kind, stage.seconds, stage.finished, name)
        for stage, name in zip(stages, chosen)
    ]


def section(stage: StageFolder, metric: str) -> Section:
    """What a report says of a finished stage of a kind that it knows."""
    text, parts = section_of(stage.kind, stage.folder, metric)
    return Section(stage.name, f"{stage.name}: {KINDS[stage.kind].title}", parts, [*text, _cost(stage)])


def _cost(stage: StageFolder) -> str:
    took = "" if stage.seconds is None else f"; its last run took {stage.seconds:.0f} s"
    return f"Made by: adhmr run {stage.folder / CONFIG}{took}."


def sections(stages: Sequence[StageFolder], metric: str) -> list[Section]:
    """Of all finished stages of known kinds, kind by kind."""
    finished = [stage for stage in stages if stage.finished and stage.kind in KINDS]
    return [section(stage, metric) for kind in KINDS for stage in finished if stage.kind == kind]
