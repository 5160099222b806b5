"""What a report is made of: tables, pictures and the section of a stage that holds them. How they are shown lives in
terminal.py, report_folder.py and html_page.py; what they say in the file of each kind of stage (section_kinds.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Table:
    """Rows of text, the header first. `records`: the same with numbers at full precision, for programs."""

    name: str  # of its files
    title: str
    rows: list[list[str]]
    records: list[dict[str, Any]] | None = None
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture that is drawn when it is shown, as the bytes of its file."""

    name: str
    title: str
    draw: Callable[[], bytes]
    ending: str = "png"  # or "jpg"
    note: str = ""


Part = Table | Picture


@dataclass(frozen=True)
class Section:
    """All that a report says of one stage."""

    name: str  # of its folder in a report
    title: str
    parts: list[Part]
    text: list[str] = field(default_factory=list)  # paragraphs
