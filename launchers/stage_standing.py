"""How a planned run stands: done, begun, new, or made from something else, and from what; its folder set aside.

Read from the run's folder alone; jobs that wait or run are pipeline_cluster.py's.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from launchers.launch_folder import LaunchFolder
from launchers.pipeline_plan import NO_PART_OF_THE_RESULT, PlannedStage
from launchers.stage_record import FILE, Fingerprint, StageRecord, read_record, write_record

BEFORE_ANYTHING = {FILE, "config.yaml", "launch"}  # what a run folder has when its stage has not begun to work
NAMED = 3  # changed keys or files that a message names


@dataclass(frozen=True)
class Standing:
    state: Literal["done", "begun", "new", "other"]
    seconds: float = 0.0  # done: of the process that finished it
    changed: str = ""  # other: what is not as it was
    only_code: bool = False  # other: settings and inputs are the same


def standing(stage: PlannedStage, accept_code: Collection[str] = ()) -> Standing:
    """accept_code: stages, or "all", whose results count although another version of the code made them."""
    record = read_record(stage.folder)
    if record is None:
        return Standing("new")
    made = Fingerprint.read(record.fingerprint)
    state = "done" if record.state == "done" else "begun"
    if made == stage.fingerprint:
        return Standing(state, record.seconds)
    if made is None:
        return Standing("other", changed="it is of an earlier version of ADHMR")
    if made.settings == stage.fingerprint.settings:
        if {"all", stage.stage, stage.name} & set(accept_code):
            return Standing(state, record.seconds)
        return Standing("other", changed=_changed_code(stage, record), only_code=True)
    return Standing("other", changed=_changed_settings(stage, record))


def accept(stage: PlannedStage) -> None:
    """Write a run that another version of the code made (or began) down as this version's; the former is noted."""
    record = read_record(stage.folder)
    made = Fingerprint.read(record.fingerprint) if record else None
    if record is not None and made is not None and made.code != stage.fingerprint.code:
        former = [*record.accepted, made.code]
        write_record(
            stage.folder, replace(record, fingerprint=str(stage.fingerprint), parts=stage.parts, accepted=former)
        )
        launch = LaunchFolder(stage.folder)
        job = launch.job()
        if job is not None and job.fingerprint is not None:
            launch.write_job(replace(job, fingerprint=str(stage.fingerprint)))


def begin(stage: PlannedStage) -> None:
    record = read_record(stage.folder)
    accepted = record.accepted if record and record.fingerprint == str(stage.fingerprint) else []
    write_record(stage.folder, StageRecord("started", str(stage.fingerprint), parts=stage.parts, accepted=accepted))


def untouched(folder: Path) -> bool:
    """It was begun, and nothing was made of it yet."""
    record = read_record(folder)
    return record is not None and record.state == "started" and not set(os.listdir(folder)) - BEFORE_ANYTHING


def set_aside(folder: Path) -> str:
    """Made from something else: kept beside the new result, never mixed with it. Says where it is; an older one gives
    way, but not to a folder in which nothing was made yet."""
    if untouched(folder):
        shutil.rmtree(folder)
        return "nothing had been made of it yet"
    previous = folder.with_name(folder.name + ".previous")
    if previous.exists():
        shutil.rmtree(previous)
    os.replace(folder, previous)
    return f"the old result is in {previous}"


def _changed_settings(stage: PlannedStage, record: StageRecord) -> str:
    try:
        former = yaml.safe_load((stage.folder / "config.yaml").read_text())
    except (OSError, yaml.YAMLError):
        former = None
    now = stage.config.model_dump(mode="json")
    if isinstance(former, dict):
        pruned = [{k: v for k, v in values.items() if k not in NO_PART_OF_THE_RESULT} for values in (former, now)]
        keys = list(_differing("", *pruned))
        if keys:
            return f"{_listed(keys)} changed"
    inputs = [name.removeprefix("input ") for name in _changed_parts(stage, record) if name.startswith("input ")]
    return f"the content of {_listed(inputs)} changed" if inputs else "a stage that it reads changed"


def _changed_code(stage: PlannedStage, record: StageRecord) -> str:
    files = ["defaults of its keys" if name == "defaults" else name for name in _changed_parts(stage, record)]
    return f"the code changed ({_listed(files)})" if files else "the code of a stage that it reads changed"


def _changed_parts(stage: PlannedStage, record: StageRecord) -> list[str]:
    names = sorted({*stage.parts, *record.parts})
    return [name for name in names if stage.parts.get(name) != record.parts.get(name)]


def _differing(key: str, former: Any, now: Any) -> Any:
    """Dotted keys of the values that differ."""
    if isinstance(former, dict) and isinstance(now, dict):
        for name in sorted({*former, *now}):
            yield from _differing(f"{key}.{name}" if key else name, former.get(name), now.get(name))
    elif isinstance(former, list) and isinstance(now, list) and len(former) == len(now):
        for number, items in enumerate(zip(former, now)):
            yield from _differing(f"{key}.{number}", *items)
    elif former != now:
        yield key


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
