"""`adhmr pipeline PIPE.yaml`: run a chain of stages in order, skip what is done, continue what was interrupted. A stage
is done when its folder says so for the same configuration and the same inputs; nothing here knows what a stage does."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from rich.console import Console

from adhmr import __version__
from adhmr.config.base import StrictModel
from adhmr.config.loading import load_config, save_resolved
from adhmr.config.stages import Stage, StageConfig
from adhmr.errors import AdhmrError
from adhmr.training.signals import EXIT_REQUEUE


class PipelineStage(StrictModel):
    """One stage, or one for each combination of `for_each` values. In strings of `values`, {output} stands for the
    pipeline's folder and {name} for the value of that name in `for_each`."""

    name: str
    config: Path  # relative to the pipeline's file
    after: list[str] = []  # names of stages whose results this one reads
    for_each: dict[str, list[Any]] = {}
    values: dict[str, Any] = {}  # dotted key -> value, over those of the stage's file


class PipelineConfig(StrictModel):
    name: str
    output: Path  # every stage writes to output/<stage name>
    stages: list[PipelineStage]


class PlannedStage:
    """A stage with its resolved configuration and the fingerprint of that and of all that it reads."""

    def __init__(self, name: str, config: StageConfig, inputs: list[PlannedStage]):
        self.name, self.config, self.inputs = name, config, inputs
        no_part = {"threads", "tracking", "resources"}  # these do not change a result
        settings = config.model_dump(mode="json", exclude=no_part)
        content = [__version__, settings, [stage.fingerprint for stage in inputs]]
        self.fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
        self.record = Path(config.output) / "stage.json"

    def state(self) -> dict[str, Any]:
        try:
            record = json.loads(self.record.read_text())
        except (OSError, json.JSONDecodeError):
            return {}
        return record if record.get("fingerprint") == self.fingerprint else {"state": "other"}

    def write(self, state: str, seconds: float = 0.0) -> None:
        temporary = self.record.with_suffix(".tmp")
        temporary.write_text(json.dumps({"state": state, "fingerprint": self.fingerprint, "seconds": seconds}))
        os.replace(temporary, self.record)


def plan_pipeline(path: Path, overrides: list[str]) -> list[PlannedStage]:
    """The stages of a pipeline in order. Overrides are `stage.key=value`; an `output=FOLDER` moves the whole pipeline.

    Raises:
        AdhmrError: an unknown stage in `after` or in an override, or a stage's configuration is wrong.
    """
    own = [text for text in overrides if text.split("=")[0] in PipelineConfig.model_fields]
    pipeline = load_config(path, own, PipelineConfig)
    names = [stage.name for stage in pipeline.stages]
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise AdhmrError(f"{path}: two stages are called {repeated[0]}; their folders would be one")
    for text in (text for text in overrides if text not in own):
        name, dot, _ = text.partition(".")
        if name not in names:
            raise AdhmrError(f"override {text}: no stage of that name; the stages are {', '.join(names)}")
        if not dot:
            raise AdhmrError(f"override {text}: expected stage.key=value, for example {name}.seed=1")
    planned: dict[str, list[PlannedStage]] = {}
    for stage in pipeline.stages:
        unknown = [name for name in stage.after if name not in planned]
        if unknown:
            raise AdhmrError(f"{path}: stage {stage.name} comes after {unknown[0]}, which no earlier stage is called")
        inputs = [one for name in stage.after for one in planned[name]]
        mine = [text.split(".", 1)[1] for text in overrides if text.split(".")[0] == stage.name]
        planned[stage.name] = []
        for chosen in itertools.product(*stage.for_each.values()):
            variables = dict(zip(stage.for_each, chosen))
            fill = {"output": pipeline.output, **variables}
            name = "-".join([stage.name, *map(str, chosen)])
            values = {"output": str(pipeline.output / name), **_filled(stage.values, fill)}
            texts = [f"{key}={json.dumps(value)}" for key, value in values.items()]  # JSON is YAML
            config = load_config(path.parent / stage.config, [*texts, *mine], TypeAdapter(Stage))
            planned[stage.name].append(PlannedStage(name, config, inputs))
    return [stage for group in planned.values() for stage in group]


def _filled(value: Any, fill: dict[str, Any]) -> Any:
    """`value` with the placeholders in its strings replaced; a string that is one placeholder takes its type."""
    if isinstance(value, dict):
        return {key: _filled(item, fill) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, fill) for item in value]
    if not isinstance(value, str):
        return value
    alone = value[1:-1] if value.startswith("{") and value.endswith("}") else None
    try:
        return fill[alone] if alone in fill and alone != "output" else value.format_map(fill)
    except (KeyError, IndexError, ValueError):
        raise AdhmrError(f"values: '{value}' has another placeholder than {', '.join(fill)}") from None


def run_pipeline(path: Path, overrides: list[str]) -> None:
    """Run what is not done yet, one stage after another, each in a process of its own.

    Raises:
        AdhmrError: a stage failed; its message names the stage and how to continue.
    """
    console = Console()
    stages = plan_pipeline(path, overrides)
    started = time.time()
    for number, stage in enumerate(stages, 1):
        title = f"[{number}/{len(stages)}] {stage.name}"
        state = stage.state()
        if state.get("state") == "done":
            console.print(f"{title}: done ({state['seconds']:.0f} s)", highlight=False)
            continue
        folder = Path(stage.config.output)
        if state.get("state") == "other":
            previous = folder.with_name(folder.name + ".previous")
            if previous.exists():
                shutil.rmtree(previous)
            os.replace(folder, previous)  # made with another configuration: kept aside, never mixed with the new
            console.print(f"{title}: its configuration or inputs changed; the old result is in {previous}")
        folder.mkdir(parents=True, exist_ok=True)
        console.rule(f"{title}" + (" (continued)" if state.get("state") == "started" else ""))
        stage.write("started")
        resolved = folder / "config.yaml"
        save_resolved(stage.config, resolved)
        begin = time.time()
        code = _run_stage(resolved)
        if code == EXIT_REQUEUE:
            raise SystemExit(EXIT_REQUEUE)  # the stage was asked to stop and has saved; the same command goes on
        if code != 0:
            raise AdhmrError(f"stage {stage.name} ended with exit code {code}, see above; the same command goes on")
        stage.write("done", time.time() - begin)
    console.print(f"{path.stem}: all {len(stages)} stages are done ({time.time() - started:.0f} s)", highlight=False)


def _run_stage(config: Path) -> int:
    """Run a stage in a process of its own; its exit code. Signals to stop go to the stage, which saves and ends."""
    process = subprocess.Popen([sys.executable, "-m", "adhmr.cli", "run", str(config)])
    # A terminal sends Ctrl-C to the stage as well, so it is not sent on; a job's SIGTERM may reach this process alone.
    actions = dict.fromkeys((signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2), lambda n, _: process.send_signal(n))
    actions[signal.SIGINT] = signal.SIG_IGN
    before = {number: signal.signal(number, action) for number, action in actions.items()}
    try:
        return process.wait()
    finally:
        for number, action in before.items():
            signal.signal(number, action)
