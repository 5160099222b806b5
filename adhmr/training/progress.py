"""What a person sees while a run trains: a bar on a terminal, plain lines elsewhere. Figures: `tracking.py`."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

LINE_SECONDS = 20.0  # without a terminal, at least one line in this time
SMOOTHING = 0.9  # of the bar's loss and rate, which are else of single steps


class ProgressReport:
    """Context manager; `active` only on the main process."""

    def __init__(self, title: str, total: int, start: int, active: bool = True):
        self._title = title
        self._total = total
        self._active = active
        self._loss = self._rate = 0.0
        self._last_line = time.monotonic()
        self.rewind(start)
        self._bar: Progress | None = None
        console = Console()
        if active and sys.stdout.isatty() and not console.is_dumb_terminal:
            columns = (
                TextColumn("{task.description}", table_column=Column(no_wrap=True, max_width=24)),
                BarColumn(bar_width=None, table_column=Column(ratio=1)),  # takes what the others leave
                TextColumn("{task.completed:.0f}/{task.total:.0f}", table_column=Column(no_wrap=True)),
                TextColumn("loss {task.fields[loss]}", table_column=Column(no_wrap=True)),
                TextColumn("{task.fields[rate]} samples/s", table_column=Column(no_wrap=True)),
                TextColumn("{task.fields[left]} left", table_column=Column(no_wrap=True)),
            )
            self._bar = Progress(*columns, console=console, refresh_per_second=4, expand=True)
            self._row = self._bar.add_task(title, total=total, completed=start, loss="-", rate="-", left="-")

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

    def rewind(self, step: int) -> None:
        """The next step is the one after `step`; what is left is judged by the pace from there on."""
        self._updates = 0
        self._paced_from = (step, time.monotonic())

    def update(self, step: int, loss: float, samples_per_s: float, lr: float, logged: bool) -> None:
        """After each step; `logged`: a log line was due, so a plain line is too."""
        if not self._active:
            return
        now = time.monotonic()
        self._updates += 1
        if self._updates == 1:  # slow: it waited for the first data, and perhaps for a compiler
            self._paced_from = (step, now)
            self._loss, self._rate = loss, samples_per_s
        if self._bar is not None:
            # A loss that is not finite is shown, not smoothed.
            kept = SMOOTHING if abs(loss) < float("inf") and abs(self._loss) < float("inf") else 0.0
            self._loss = kept * self._loss + (1 - kept) * loss
            self._rate = SMOOTHING * self._rate + (1 - SMOOTHING) * samples_per_s
            self._bar.update(
                self._row,
                completed=step,
                loss=f"{self._loss:.4g}",
                rate=f"{self._rate:.3g}" if self._rate < 100 else f"{self._rate:.0f}",
                left=self._left(step, now),
            )
        elif logged or now - self._last_line > LINE_SECONDS:
            self._last_line = now
            print(
                f"{self._title}: step {step}/{self._total}  loss {loss:.4g}  {samples_per_s:.0f} samples/s  "
                f"lr {lr:.3g}  {self._left(step, now)} left",
                flush=True,
            )

    def _left(self, step: int, now: float) -> str:
        """Time until the last step by the mean pace of this process, evaluations and saves included."""
        first, begun = self._paced_from
        if step <= first:
            return "-"
        seconds = round((now - begun) / (step - first) * (self._total - step))
        days, seconds = divmod(seconds, 86400)
        clock = f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        return f"{days}d {clock}" if days else clock
