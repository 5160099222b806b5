"""A report as a folder of files: README.md with all sections, each table as Markdown and CSV, each plot as a picture.
What the sections say is decided by the callers."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from adhmr.atomic_file import write_atomically
from adhmr.evaluation.sections import Section, Table
from adhmr.evaluation.stage_folders import StageFolder


def write_report(folder: Path, title: str, sections: Sequence[Section], stages: Sequence[StageFolder]) -> Path:
    """Writes the report and returns its README.md. `stages`: all that ran, for the list of what they cost."""
    lines = [f"# {title}", ""]
    lines += [f"- [{section.title}](#{_anchor(section.title)})" for section in sections]
    lines += ["- [Stages](#stages)", ""]
    for section in sections:
        lines += [f"## {section.title}", ""]
        for paragraph in section.text:
            lines += [paragraph, ""]
        for part in section.parts:
            path = Path(section.name, part.name)
            lines += [f"### {_capital(part.title)}", ""]
            if isinstance(part, Table):
                text = markdown(part.rows)
                write_atomically(folder / f"{path}.md", text, sync=False)
                write_atomically(folder / f"{path}.csv", comma_separated(part), sync=False)
                lines += [text]
            else:
                write_atomically(folder / f"{path}.{part.ending}", part.draw(), sync=False)
                lines += [f"![{part.title}]({path.as_posix()}.{part.ending})", ""]
            if part.note:
                lines += [part.note, ""]
    lines += ["## Stages", "", markdown(cost_rows(stages))]
    write_atomically(folder / "README.md", "\n".join(lines), sync=False)
    return folder / "README.md"


def cost_rows(stages: Sequence[StageFolder]) -> list[list[str]]:
    rows = [["stage", "kind", "state", "seconds of its last run"]]
    for stage in stages:
        seconds = "" if stage.seconds is None or not stage.finished else f"{stage.seconds:.0f}"
        rows.append([stage.name, stage.kind, "finished" if stage.finished else "not finished", seconds])
    known = [stage.seconds for stage in stages if stage.finished and stage.seconds is not None]
    return [*rows, ["all", "", "", f"{sum(known):.0f}"]] if len(known) > 1 else rows


def markdown(rows: list[list[str]]) -> str:
    """A table of GitHub's Markdown; first column to the left, numbers to the right."""
    lines = [_line(rows[0]), "|---|" + "---:|" * (len(rows[0]) - 1), *map(_line, rows[1:])]
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.strip().replace("|", "\\|") for cell in cells) + " |"


def comma_separated(table: Table) -> str:
    """The records where a table has some, else its rows."""
    stream = io.StringIO()
    if table.records is None:
        csv.writer(stream, lineterminator="\n").writerows([[cell.strip() for cell in row] for row in table.rows])
    else:
        writer = csv.DictWriter(stream, list(table.records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table.records)
    return stream.getvalue()


def _anchor(title: str) -> str:
    """As Markdown viewers make it of a heading."""
    kept = "".join(c for c in title.lower() if c.isalnum() or c in " -_")
    return kept.replace(" ", "-")


def _capital(title: str) -> str:
    return title[:1].upper() + title[1:]
