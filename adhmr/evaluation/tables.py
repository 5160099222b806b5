"""Tables from a finished evaluation: each method's errors, and its paired difference from the baseline. A method is one
model or a group of models that differ in their training seed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from adhmr.errors import AdhmrError
from adhmr.evaluation.paired import Difference, mean_and_spread, paired_difference
from adhmr.evaluation.sections import Table
from adhmr.evaluation.terminal import print_parts
from adhmr.preference.mesh_errors import ERROR_NAMES

METRIC_TITLES = {"pve": "PVE", "mpjpe": "MPJPE", "pa_pve": "PA-PVE", "pa_mpjpe": "PA-MPJPE"}


def image_columns(arrays: dict[str, np.ndarray], metric: str, hypotheses: list[int]) -> dict[str, np.ndarray]:
    """One (N,) array of millimetres for each column of a table: minima over the first M hypotheses, the zero-noise
    hypothesis, the mean hypothesis, the average of random ones, and the scorer's choice. With a protocol's official
    candidates minima are over M + 2, and one of the two further ones, the scorer's top five averaged, is a column."""
    index = ERROR_NAMES.index(metric)
    error = arrays["errors"][..., index]  # (N, M)
    columns = {f"min {count}": error[:, :count].min(1) for count in hypotheses}
    if "extra_errors" in arrays:
        extra = arrays["extra_errors"][..., index]  # (N, K, 2)
        columns = {name: np.minimum(least, extra[:, k].min(1)) for k, (name, least) in enumerate(columns.items())}
        columns["top 5"] = extra[:, int(np.argmax(hypotheses)), 0]
    columns["zero"] = error[:, 0]
    columns["mean"] = arrays["mean_errors"][:, index]
    columns["random"] = error[:, 1:].mean(1)
    if "value_scorer" in arrays:
        chosen = arrays["value_scorer"].argmax(1)
        columns["scorer's"] = np.take_along_axis(error, chosen[:, None], 1)[:, 0]
    return columns


class EvaluationResult:
    """A finished evaluate stage, read from its folder.

    Raises:
        AdhmrError: the folder holds none.
    """

    def __init__(self, folder: Path):
        try:
            self.figures = json.loads((folder / "figures.json").read_text())
        except FileNotFoundError as error:
            raise AdhmrError(f"{folder}/figures.json does not exist: run the evaluate stage first") from error
        if "protocol" not in self.figures:
            raise AdhmrError(f"{folder}/figures.json names no protocol: an older version made it; evaluate again")
        self.protocol: str = self.figures["protocol"]
        self.hypotheses: list[int] = self.figures["hypotheses"]
        self.arrays: dict[str, dict[str, np.ndarray]] = {}
        self.groups: dict[str, list[str]] = {}
        rounds: dict[int, str] = {}
        for name, entry in self.figures["models"].items():
            with np.load(folder / "models" / f"{name}.npz") as stored:
                self.arrays[name] = {key: stored[key] for key in stored.files if key != "identity"}
            self.groups.setdefault(entry["group"] or name, []).append(name)
            if entry.get("round") is not None:
                rounds[entry["round"]] = entry["group"] or name
        self.rounds: dict[int, str] = dict(sorted(rounds.items()))  # number of a round -> its group
        self._columns: dict[tuple[str, str], dict[str, np.ndarray]] = {}  # of a group and a metric: minima take long

    def columns(self, group: str, metric: str) -> dict[str, np.ndarray]:
        """Column title -> (seeds, N) millimetres.

        Raises:
            AdhmrError: no model or group of that name was evaluated.
        """
        if group not in self.groups:
            raise AdhmrError(f"the evaluation holds no model or group '{group}'; it has {', '.join(self.groups)}")
        if (group, metric) not in self._columns:
            each = [image_columns(self.arrays[name], metric, self.hypotheses) for name in self.groups[group]]
            stacked = {title: np.stack([columns[title] for columns in each]) for title in each[0]}
            self._columns[group, metric] = stacked
        return self._columns[group, metric]

    def difference(self, group: str, baseline: str, metric: str, column: str, against: str | None = None) -> Difference:
        """Paired over images, see paired.py. `against`: the baseline's column; None for the same one."""
        theirs = self.columns(baseline, metric)[against or column]
        return paired_difference(self.columns(group, metric)[column], theirs)


def error_table(result: EvaluationResult, metric: str, baseline: str) -> list[list[str]]:
    """Rows of text, the header first: the baseline's errors, then for each method its errors (mean ± spread over seeds)
    and below them the change (± paired standard error)."""
    titles = list(result.columns(baseline, metric))
    rows = [[f"{METRIC_TITLES[metric]} (mm)", *titles]]
    for group in result.groups:
        columns = result.columns(group, metric)
        cells = [mean_and_spread(values) for values in columns.values()]
        rows.append([group, *cells])
        if group != baseline:
            changes = [result.difference(group, baseline, metric, title) for title in titles]
            rows.append(["  change", *(f"{c.mean:+.2f} ± {c.standard_error:.2f}" for c in changes)])
    return rows


def round_columns(result: EvaluationResult, baseline: str) -> list[str]:
    """What is shown by round of a table's columns; of the minima the one of most hypotheses."""
    there = result.columns(baseline, "pve")
    return [title for title in (f"min {max(result.hypotheses)}", "zero", "random", "scorer's") if title in there]


def round_table(result: EvaluationResult, baseline: str) -> list[list[str]]:
    """Rows of text, the header first: a line for each error, a column for each round: millimetres, and the change
    against the baseline ± its paired standard error over images."""
    groups = result.rounds
    rows = [["mm", *(f"round {number}" for number in groups)]]
    for metric, heading in METRIC_TITLES.items():
        for title in round_columns(result, baseline):
            cells = []
            for group in groups.values():
                cell = f"{result.columns(group, metric)[title].mean():.1f}"
                if group != baseline:
                    change = result.difference(group, baseline, metric, title)
                    cell += f" ({change.mean:+.2f} ± {change.standard_error:.2f})"
                cells.append(cell)
            rows.append([f"{heading} {title}", *cells])
    return rows


def ranking_table(result: EvaluationResult, model: str) -> list[list[str]]:
    """How scorer and training-free rankings order one model's own hypotheses."""
    rows = [["ranking", "within-image SRCC", "images > 0", "pooled SRCC", "PVE of its pick (mm)"]]
    for name, entry in result.figures["models"][model]["rankings"].items():
        positive = f"{100 * entry['within_image_positive']:.0f} %"
        within, pooled = f"{entry['within_image_srcc']:.3f}", f"{entry['pooled_srcc']:.3f}"
        rows.append([name, within, positive, pooled, f"{entry['picked_pve']:.1f}"])
    return rows


def scorer_table(result: EvaluationResult) -> list[list[str]]:
    """PLCC and SRCC of the scorer pooled over the set (paper Table 1), for each kind of noise."""
    kinds = [f"{title} {kind}" for title in METRIC_TITLES.values() for kind in ("PLCC", "SRCC")]
    rows = [["noise", *kinds, "mean PVE (mm)"]]
    for noise, entry in result.figures.get("scorer", {}).items():
        cells = [f"{entry[metric][kind]:.2f}" for metric in METRIC_TITLES for kind in ("plcc", "srcc")]
        rows.append([noise, *cells, f"{entry['pve']['mean_mm']:.0f}"])
    return rows


def evaluation_tables(result: EvaluationResult, baseline: str) -> list[Table]:
    """Errors by metric, rankings, rounds and scorer, each where there is something to show."""
    tables = [
        Table(f"errors-{metric}", f"{heading}, protocol {result.protocol}", error_table(result, metric, baseline))
        for metric, heading in METRIC_TITLES.items()
    ]
    if len(result.rounds) > 1:
        tables.append(Table("rounds", "by round", round_table(result, baseline)))
    rankings = ranking_table(result, result.groups[baseline][0])
    tables.append(Table("rankings", f"rankings of {baseline}'s own hypotheses", rankings))
    if result.figures.get("scorer"):
        tables.append(Table("scorer", "scorer on disturbed ground truth", scorer_table(result)))
    return tables


def print_tables(folder: Path, baseline: str | None = None) -> None:
    """All tables of an evaluation, on the terminal."""
    result = EvaluationResult(folder)
    print_parts(evaluation_tables(result, baseline or next(iter(result.groups))))
