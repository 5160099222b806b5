"""The table of a finished regressors stage (the paper's Table 5), from its folder: methods by sets. A method is one
regressor or a group that differ in their training seed; how errors are made is in regressors.py."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from adhmr.errors import AdhmrError
from adhmr.evaluation.paired import Difference, mean_and_spread, paired_difference
from adhmr.evaluation.sections import Table
from adhmr.evaluation.tables import METRIC_TITLES
from adhmr.evaluation.terminal import print_parts
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


def regressor_table(result: RegressorsResult, baseline: str | None = None) -> list[list[str]]:
    """Rows of text, the header first: for each set a line a method with its errors (mean ± spread over seeds) and, but
    for the baseline, a line with the change (± paired standard error over images). The baseline is the first method
    unless it is named.

    Raises:
        AdhmrError: no such method.
    """
    baseline = baseline or next(iter(result.groups))
    if baseline not in result.groups:
        raise AdhmrError(f"the evaluation holds no regressor or group '{baseline}'; it has {', '.join(result.groups)}")
    rows = [["set", "method", *(f"{name} (mm)" for name in METRIC_TITLES.values())]]
    for title in result.sets:
        for group in result.groups:
            errors = [mean_and_spread(result.errors(group, title, metric)) for metric in METRIC_TITLES]
            rows.append([title, group, *errors])
            if group != baseline:
                changes = [result.difference(group, baseline, title, metric) for metric in METRIC_TITLES]
                rows.append(["", "  change", *(f"{c.mean:+.2f} ± {c.standard_error:.2f}" for c in changes)])
    return rows


def print_table(folder: Path) -> None:
    """The table on the terminal, with what the sets are."""
    result = RegressorsResult(folder)
    entries = result.figures["sets"].items()
    sets = "; ".join(f"{title}: {entry['samples']} images, protocol {entry['protocol']}" for title, entry in entries)
    print_parts([Table("regressors", "regressors", regressor_table(result), note=sets)])
