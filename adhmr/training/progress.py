"""What a person sees while a run trains: a bar on a terminal, plain lines elsewhere. Figures: `tracking.py`."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_SECONDS = 20.0  # without a terminal, at least one line in this time


class ProgressReport:
    """Context manager; `active` only on the main process."""

    def __init__(self, title: str, total: int, start: int, active: bool = True):
        self._title = title
        self._total = total
        self._start = start
        self._active = active
        self._begun = self._last_line = time.monotonic()
        self._bar: Progress | None = None
        if active and sys.stdout.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("loss {task.fields[loss]}  {task.fields[rate]:.0f} samples/s"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=Console(), refresh_per_second=4)
            self._row = self._bar.add_task(title, total=total, completed=start, loss="-", rate=0.0)

    def __enter__(self) -> "ProgressReport":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """One line above the bar."""
        if self._active:
            if self._bar is not None:
                self._bar.console.print(text, markup=False, highlight=False)
            else:
                print(text, flush=True)

    def update(self, step: int, loss: float, samples_per_s: float, lr: float, logged: bool) -> None:
        """After each step; `logged`: a log line was due, so a plain line is too."""
        if not self._active:
            return
        if self._bar is not None:
            self._bar.update(self._row, completed=step, loss=f"{loss:.4g}", rate=samples_per_s)
        elif logged or time.monotonic() - self._last_line > LINE_SECONDS:
            self._last_line = time.monotonic()
            left = (self._last_line - self._begun) / max(step - self._start, 1) * (self._total - step)
            print(
                f"{self._title}: step {step}/{self._total}  loss {loss:.4g}  {samples_per_s:.0f} samples/s  "
                f"lr {lr:.3g}  {left / 60:.1f} min left",
                flush=True,
            )
