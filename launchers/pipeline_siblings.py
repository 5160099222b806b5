"""Stage files that name each other's results, in a pipeline that writes elsewhere: what is read there follows.

A file with `output: runs/paper/clean` keeps company with those that write below runs/paper. What the values of a
pipeline say is not looked at here (pipeline_plan.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path

from pydantic import BaseModel

from adhmr.config.common import StageConfig
from adhmr.config.loading import load_config
from launchers.stage_inputs import paths_read


class _Written(BaseModel):
    """Of a stage file, where it writes; the other keys are not looked at."""

    output: Path | None = None


def siblings_moved(
    file: Path, config: StageConfig, output: Path, runs: Collection[str], chosen: Collection[str]
) -> list[str]:
    """Overrides `key=path` that let a run read from `output` what its stage file reads from the folder beside its own.

    runs: names of the runs whose results move so; chosen: dotted keys that were set over the file's, which stay.
    """
    own = load_config(file, [], _Written).output
    if own is None or os.path.normpath(own.parent) == os.path.normpath(output):
        return []
    moved = []
    for key, path in paths_read(config):
        if "://" in path or any(key == one or key.startswith(f"{one}.") for one in chosen):
            continue
        name, *rest = Path(os.path.relpath(path, own.parent)).parts
        if name in runs:
            moved.append(f"{key}={json.dumps(str(output.joinpath(name, *rest)))}")
    return moved
