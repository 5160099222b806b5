"""What `adhmr status` prints: a table for people, redrawn with --watch, and JSON for machines."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from launchers.run_status import RunStatus, find_runs, statuses
from launchers.slurm_queue import Queue

COLOURS = {
    "running": "green", "done": "blue", "failed": "red", "blocked": "red", "held": "yellow", "unknown": "magenta",
    "requeued": "yellow", "ending": "yellow", "suspended": "yellow", "preempted": "red",
}  # fmt: skip
COLUMNS = ("run", "state", "step", "loss", "samples/s", "ETA", "nodes", "restarts", "job")
NUMBERS = ("step", "loss", "samples/s", "ETA", "restarts")


def show_status(folders: Sequence[Path], watch: float | None, as_json: bool) -> None:
    """watch: seconds between two looks, until Ctrl-C; None: once."""
    queue = Queue()

    def look() -> list[RunStatus]:
        return statuses([run for folder in folders for run in find_runs(folder)], queue)

    if as_json:
        print(json.dumps([asdict(status) for status in look()], indent=1))
        return
    console = Console()
    if watch is None:
        console.print(render(look()))
        return
    with Live(render(look()), console=console, auto_refresh=False, screen=console.is_terminal) as live:
        while True:
            time.sleep(watch)
            moment = Text(f"{time.strftime('%H:%M:%S')}, every {watch:g} s; Ctrl-C ends", style="dim")
            live.update(Group(render(look()), moment), refresh=True)


def render(lines: Sequence[RunStatus]) -> Table:
    """A row for each run; why it is in its state stands below it. Columns without any value are left out."""
    rows = [_cells(line) for line in lines]
    used = [column for column in COLUMNS if column in ("run", "state") or any(row[column] for row in rows)]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in used:
        table.add_column(column, justify="right" if column in NUMBERS else "left", no_wrap=column != "state")
    for line, row in zip(lines, rows):
        cells = [Text(row[column]) for column in used]
        cells[1].stylize(COLOURS.get(line.state, ""))
        table.add_row(*cells)
    reasons = [line for line in lines if line.reason]
    if not reasons:
        return table
    notes = [Text.assemble((line.name, "bold"), f" {line.state}: {line.reason}") for line in reasons]
    return Group(table, Text(), *notes)


def _cells(line: RunStatus) -> dict[str, str]:
    return {
        "run": line.run,
        "state": line.state,
        "step": "" if line.step is None else f"{line.step}/{line.steps}",
        "loss": "" if line.loss is None else f"{line.loss:.4g}",
        "samples/s": "" if line.samples_per_s is None else f"{line.samples_per_s:.3g}",
        "ETA": "" if line.eta_seconds is None else duration(line.eta_seconds),
        "nodes": line.nodes,
        "restarts": str(line.restarts) if line.restarts else "",
        "job": line.job or "",
    }


def duration(seconds: float) -> str:
    """As 2 d 3 h, 3 h 05 min, 12 min or 40 s."""
    whole = round(seconds)
    if whole >= 86400:
        return f"{whole // 86400} d {whole % 86400 // 3600} h"
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min" if whole >= 120 else f"{whole} s"
