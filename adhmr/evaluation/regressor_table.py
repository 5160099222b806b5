"""The table of a finished regressors stage (the paper's Table 5), from its folder: methods by sets. A method is one
regressor or a group that differ in their training seed; how errors are made is in regressors.py."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from adhmr.errors import AdhmrError
from adhmr.evaluation.paired import Difference, mean_and_spread, paired_difference
from adhmr.evaluation.tables import METRIC_TITLES
from adhmr.preference.mesh_errors import ERROR_NAMES


class RegressorsResult:
    """A finished regressors stage, read from its folder.

    Raises:
        AdhmrError: the folder holds none.
    """

    def __init__(self, folder: Path):
        try:
            self.figures = json.loads((folder / "figures.json").read_text())
        except FileNotFoundError:
            raise AdhmrError(f"{folder}/figures.json does not exist: run the regressors stage first") from None
        self.sets: list[str] = list(self.figures["sets"])
        self.groups: dict[str, list[str]] = {}
        for name, entry in self.figures["models"].items():
            self.groups.setdefault(entry["group"] or name, []).append(name)
        self._errors: dict[tuple[str, str], np.ndarray] = {}
        for title in self.sets:
            for name in self.figures["models"]:
                with np.load(folder / "sets" / title / f"{name}.npz") as stored:
                    self._errors[title, name] = stored["errors"]  # (N, 4) millimetres

    def errors(self, group: str, title: str, metric: str) -> np.ndarray:
        """(seeds, N) millimetres of a group on a set."""
        index = ERROR_NAMES.index(metric)
        return np.stack([self._errors[title, name][:, index] for name in self.groups[group]])

    def difference(self, group: str, baseline: str, title: str, metric: str) -> Difference:
        """Of a group against another one on a set, paired over its images."""
        return paired_difference(self.errors(group, title, metric), self.errors(baseline, title, metric))


def set_table(result: RegressorsResult, title: str, baseline: str) -> list[list[str]]:
    """Rows of text, the header first, for one set: for each method its errors (mean ± spread over seeds) and, but for
    the baseline, the change below them (± paired standard error over images)."""
    rows = [["mm", *METRIC_TITLES.values()]]
    for group in result.groups:
        rows.append([group, *(mean_and_spread(result.errors(group, title, metric)) for metric in METRIC_TITLES)])
        if group != baseline:
            changes = [result.difference(group, baseline, title, metric) for metric in METRIC_TITLES]
            rows.append(["  change", *(f"{c.mean:+.2f} ± {c.standard_error:.2f}" for c in changes)])
    return rows


def regressor_table(result: RegressorsResult, baseline: str | None = None) -> list[list[str]]:
    """All sets side by side: the header names set and error; the baseline is the first method unless named.

    Raises:
        AdhmrError: no such method.
    """
    baseline = baseline or next(iter(result.groups))
    if baseline not in result.groups:
        raise AdhmrError(f"the evaluation holds no regressor or group '{baseline}'; it has {', '.join(result.groups)}")
    tables = [set_table(result, title, baseline) for title in result.sets]
    header = ["mm", *(f"{title} {name}" for title in result.sets for name in METRIC_TITLES.values())]
    bodies = [[row[0][0], *(cell for row_of_set in row for cell in row_of_set[1:])] for row in zip(*tables)]
    return [header, *bodies[1:]]


def print_table(folder: Path, baseline: str | None = None) -> None:
    """The table on the terminal: one for each set."""
    result = RegressorsResult(folder)
    baseline = baseline or next(iter(result.groups))
    console = Console(width=None if Console().is_terminal else 150)
    for title in result.sets:
        entry = result.figures["sets"][title]
        rows = set_table(result, title, baseline)
        table = Table(*rows[0], title=f"{title}: {entry['samples']} images, protocol {entry['protocol']}")
        for row in rows[1:]:
            table.add_row(*row)
        console.print(table)
