"""Tables on the terminal, in lines of text. Which tables there are is decided by the callers."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table as RichTable

from adhmr.evaluation.sections import Part, Table

WIDTH = 160  # columns where there is no terminal, as in the log file of a job


def print_parts(parts: Iterable[Part]) -> None:
    """The tables among `parts`."""
    console = Console(width=None if Console().is_terminal else WIDTH)
    for part in parts:
        if isinstance(part, Table):
            shown = RichTable(*part.rows[0], title=part.title, caption=part.note or None)
            for row in part.rows[1:]:
                shown.add_row(*row)
            console.print(shown)
