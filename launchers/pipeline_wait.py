"""`adhmr pipeline --cluster NAME --wait`: the table of `adhmr status` until no run of the pipeline waits or runs.

What a state is: job_state.py. Nothing is submitted or stopped here; Ctrl-C ends the waiting alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live

from adhmr.errors import AdhmrError
from launchers.job_state import UNSETTLED
from launchers.pipeline_jobs import GOES_ON
from launchers.pipeline_plan import PlannedStage
from launchers.run_status import RunStatus, statuses
from launchers.slurm_queue import Queue
from launchers.status_table import render

PAUSE = 5.0  # s between two looks


def wait_for(name: str, stages: Sequence[PlannedStage], queue: Queue) -> None:
    """Raises AdhmrError: not all runs are done in the end; it names the others and why."""
    console = Console()
    folders = [stage.folder for stage in stages]
    lines = statuses(folders, queue)
    shown = _states(lines)
    settled = time.monotonic()  # when a run was last known to wait or run
    with Live(render(lines), console=console, auto_refresh=False, transient=True) as live:
        if not console.is_terminal:
            console.print(render(lines))
        while True:
            if any(line.state in GOES_ON for line in lines):
                settled = time.monotonic()
            elif all(line.state != "unknown" for line in lines) or time.monotonic() - settled > 2 * UNSETTLED:
                break
            time.sleep(PAUSE)
            lines = statuses(folders, queue)
            if console.is_terminal:
                live.update(render(lines), refresh=True)
            elif _states(lines) != shown:  # in a log file a new table for each change, not for each step
                console.print(render(lines))
            shown = _states(lines)
    if console.is_terminal:
        console.print(render(lines))
    missing = [line for line in lines if line.state != "done"]
    if missing:
        why = "; ".join(f"{line.name} {line.state}" + (f" ({line.reason})" if line.reason else "") for line in missing)
        raise AdhmrError(f"{name}: {len(missing)} of {len(lines)} stages are not done: {why}; the same command goes on")


def _states(lines: Sequence[RunStatus]) -> list[tuple[str, str]]:
    return [(line.name, line.state) for line in lines]
