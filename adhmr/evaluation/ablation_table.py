"""A table for many methods: one line each, in the order in which they were configured. The tables with a line for every
error are in tables.py and paper_table.py."""

from __future__ import annotations

from adhmr.evaluation.paper_table import predictions
from adhmr.evaluation.sections import Table
from adhmr.evaluation.tables import METRIC_TITLES, EvaluationResult


def ablation_table(result: EvaluationResult, baseline: str, metric: str) -> Table:
    """Errors of one metric: methods by predictions, each with its change against the baseline."""
    columns = predictions(result, baseline)
    rows = [["method", "seeds", *columns.values()]]
    for group, names in result.groups.items():
        cells = []
        for column in columns:
            cell = f"{result.columns(group, metric)[column].mean():.1f}"
            if group != baseline:
                change = result.difference(group, baseline, metric, column)
                cell += f" ({change.mean:+.1f} ± {change.standard_error:.1f})"
            cells.append(cell)
        rows.append([group, str(len(names)), *cells])
    note = f"Millimetres, mean over seeds; in brackets the change against {baseline} ± paired standard error."
    return Table(f"ablation-{metric}", f"{METRIC_TITLES[metric]}, a line a method", rows, note=note)
