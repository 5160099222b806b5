"""Progress of a loop: a bar on a terminal, a plain line now and then elsewhere (log files of jobs stay readable)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 20.0
Item = TypeVar("Item")


def track(items: Sequence[Item], title: str, unit: str) -> Iterator[Item]:
    """Yield the items, showing how many are done, the time spent and the time left."""
    return _bar(items, title) if sys.stdout.isatty() else _lines(items, len(items), title, unit)


def _bar(items: Sequence[Item], title: str) -> Iterator[Item]:
    text = TextColumn("{task.description}")
    with Progress(text, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()) as progress:
        yield from progress.track(items, description=title)


def _lines(items: Iterable[Item], total: int, title: str, unit: str) -> Iterator[Item]:
    start = last = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last > SECONDS_BETWEEN_LINES or done == total:
            left = (now - start) / done * (total - done)
            print(f"{title}: {done}/{total} {unit}, {now - start:.0f} s, {left:.0f} s left", flush=True)
            last = now
