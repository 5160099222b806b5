"""A pipeline on this machine: one stage after another, each in a process of its own; what is done is skipped."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path

from rich.console import Console

from adhmr.config.loading import save_resolved
from adhmr.errors import AdhmrError
from adhmr.signals import EXIT_REQUEUE
from launchers.cluster import ClusterConfig
from launchers.pipeline_plan import PlannedStage
from launchers.stage_record import mark_done
from launchers.stage_standing import accept, begin, set_aside, standing
from launchers.submission import submit_config


def run_here(
    name: str,
    stages: list[PlannedStage],
    accept_code: Collection[str],
    lock: int,
    cluster: ClusterConfig | None,
    *,
    keep_going: bool = False,
) -> None:
    """lock: a file descriptor that the stages' processes keep open: they may outlive this one when it is killed.
    cluster: of kind local, each stage runs in as many processes as it asks for; None: in one.
    keep_going: stages that do not need one that failed are run before that is raised.

    Raises:
        AdhmrError: a stage failed; its message names the stage and how to continue.
    """
    console = Console()
    started = time.time()
    missing: dict[str, str] = {}  # run -> why there is no result of it
    for number, stage in enumerate(stages, 1):
        title = f"[{number}/{len(stages)}] {stage.name}"
        stands = standing(stage, accept_code)
        if stands.state == "done":
            accept(stage)
            console.print(f"{title}: done ({stands.seconds:.0f} s)", highlight=False)
            continue
        lacking = [one.name for one in stage.inputs if one.name in missing]
        if lacking:
            missing[stage.name] = f"needs {', '.join(lacking)}"
            console.print(f"{title}: not run, it {missing[stage.name]}", highlight=False, soft_wrap=True)
            continue
        if stands.state == "other":
            old = set_aside(stage.folder)
            keep = f" (--accept-code {stage.stage} would have kept it)" if stands.only_code else ""
            line = f"{title}: {stands.changed}; {old}{keep}"
            console.print(line, highlight=False, soft_wrap=True)
        stage.folder.mkdir(parents=True, exist_ok=True)
        console.rule(f"{title}" + (" (continued)" if stands.state == "begun" else ""))
        begin(stage)
        begun = time.time()
        if cluster is None:
            resolved = stage.folder / "config.yaml"
            save_resolved(stage.config, resolved)
            code = _run_stage(resolved, lock)
        else:
            code = submit_config(stage.config, cluster, stage.name, str(stage.fingerprint)).code
        if code == EXIT_REQUEUE:
            raise SystemExit(EXIT_REQUEUE)  # the stage was asked to stop and has saved; the same command goes on
        if code == 0:
            mark_done(stage.folder, time.time() - begun)
            continue
        if not keep_going:
            raise AdhmrError(f"stage {stage.name} ended with exit code {code}, see above; the same command goes on")
        missing[stage.name] = f"exit code {code}"
        console.print(f"{title}: ended with exit code {code}, see above", highlight=False)
    if missing:
        why = "; ".join(f"{run}: {reason}" for run, reason in missing.items())
        raise AdhmrError(
            f"{name}: {len(missing)} of {len(stages)} stages are not done ({why}); the same command goes on"
        )
    console.print(f"{name}: all {len(stages)} stages are done ({time.time() - started:.0f} s)", highlight=False)


def _run_stage(config: Path, lock: int) -> int:
    """Run a stage in a process of its own; its exit code. Signals to stop go to the stage, which saves and ends."""
    process = subprocess.Popen([sys.executable, "-m", "adhmr.cli", "run", str(config)], pass_fds=(lock,))
    # A terminal sends Ctrl-C to the stage as well, so it is not sent on; a job's SIGTERM may reach this process alone.
    actions = dict.fromkeys((signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2), lambda n, _: process.send_signal(n))
    actions[signal.SIGINT] = signal.SIG_IGN
    before = {number: signal.signal(number, action) for number, action in actions.items()}
    try:
        return process.wait()
    finally:
        for number, action in before.items():
            signal.signal(number, action)
