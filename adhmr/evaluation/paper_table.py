"""The paper's Table 2 and its claim, from a finished evaluation: methods and numbers of hypotheses by errors, and
whether few hypotheses of a method beat many of the baseline. Other tables of an evaluation are in tables.py."""

from __future__ import annotations

from typing import Any

from adhmr.evaluation.paired import Difference, error_record, mean_and_spread
from adhmr.evaluation.sections import Table
from adhmr.evaluation.tables import METRIC_TITLES, EvaluationResult

ERRORS_OF_DOUBT = 2.0  # standard errors that a change must be away from zero
PREDICTIONS = {
    "zero": "zero-noise",
    "mean": "mean",
    "random": "random",
    "scorer's": "scorer's pick",
    "top 5": "mean of the scorer's top 5",
}


def predictions(result: EvaluationResult, baseline: str) -> dict[str, str]:
    """Column of the evaluation -> what the paper's table calls it: the best of M for each M, then what can be chosen
    without the label."""
    there = result.columns(baseline, "pve")
    minima = {f"min {count}": f"best of {count}" for count in sorted(result.hypotheses)}
    return minima | {column: title for column, title in PREDICTIONS.items() if column in there}


def error_records(result: EvaluationResult, baseline: str) -> list[dict[str, Any]]:
    """One record a method and prediction: of each metric the error, its standard deviation over seeds, the change
    against the baseline and that change's paired standard error, all in millimetres."""
    records = []
    for group, names in result.groups.items():
        for column, title in predictions(result, baseline).items():
            record: dict[str, Any] = {"method": group, "prediction": title, "seeds": len(names)}
            for metric in METRIC_TITLES:
                change = result.difference(group, baseline, metric, column)
                record |= error_record(metric, result.columns(group, metric)[column], change)
            records.append(record)
    return records


def paper_table(result: EvaluationResult, baseline: str) -> Table:
    rows = [["method", "prediction", *(f"{title} (mm)" for title in METRIC_TITLES.values())]]
    for group in result.groups:
        for number, (column, title) in enumerate(predictions(result, baseline).items()):
            cells = []
            for metric in METRIC_TITLES:
                cell = mean_and_spread(result.columns(group, metric)[column])
                if group != baseline:
                    change = result.difference(group, baseline, metric, column)
                    cell += f" ({change.mean:+.2f} ± {change.standard_error:.2f})"
                cells.append(cell)
            rows.append([group if number == 0 else "", title, *cells])
    note = f"Mean ± standard deviation over seeds; in brackets the change against {baseline} ± paired standard error."
    return Table("methods", "methods and predictions", rows, error_records(result, baseline), note)


def claim_table(result: EvaluationResult, baseline: str) -> Table | None:
    """For each method the best of the fewest hypotheses minus the baseline's best of the most, with the paired standard
    error over images; None without a second number of hypotheses or a second method."""
    fewest, most = min(result.hypotheses), max(result.hypotheses)
    methods = [group for group in result.groups if group != baseline]
    if fewest == most or not methods:
        return None
    rows = [["method", *METRIC_TITLES.values()]]
    records = []
    for group in methods:
        cells = []
        for metric in METRIC_TITLES:
            change = result.difference(group, baseline, metric, f"min {fewest}", f"min {most}")
            holds = verdict(change)
            cells.append(f"{change.mean:+.2f} ± {change.standard_error:.2f}: {holds}")
            numbers = {"difference": change.mean, "standard_error": change.standard_error}
            records.append({"method": group, "metric": metric, **numbers, "claim": holds})
        rows.append([group, *cells])
    title = f"does the best of {fewest} beat {baseline}'s best of {most}?"
    note = "Difference in mm ± paired standard error; less than two standard errors leave it open."
    return Table("claim", title, rows, records, note)


def verdict(change: Difference) -> str:
    if abs(change.mean) < ERRORS_OF_DOUBT * change.standard_error or change.mean == 0:
        return "open"
    return "yes" if change.mean < 0 else "no"
