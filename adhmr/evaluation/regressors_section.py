"""What a report says of a finished regressors stage (paper Table 5): its table, which regressor_table.py makes, and the
changes as a plot."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from adhmr.evaluation.error_plots import changes_of_method, colour_of, with_changes
from adhmr.evaluation.paired import error_record
from adhmr.evaluation.regressor_table import RegressorsResult, regressor_table
from adhmr.evaluation.sections import Part, Picture, Table
from adhmr.evaluation.tables import METRIC_TITLES
from adhmr.visualization.plots import plt


def section(folder: Path, metric: str) -> tuple[list[str], list[Part]]:
    """Paragraphs and parts; all errors are shown, whatever `metric` is. The first method is the baseline."""
    result = RegressorsResult(folder)
    baseline = next(iter(result.groups))
    about = [
        f"{title} ({one['samples']} images, protocol {one['protocol']})"
        for title, one in result.figures["sets"].items()
    ]
    text = [
        f"Regressors on {', '.join(about)}; errors in millimetres, mean ± standard deviation over training seeds. "
        f"Changes are against {baseline}, ± paired standard error over images."
    ]
    table = Table("regressors", "methods by sets", regressor_table(result), error_records(result, baseline))
    parts: list[Part] = [table]
    if len(result.groups) > 1:
        draw = partial(change_plot, result, baseline)
        parts.append(Picture("changes", f"changes against {baseline} ± paired standard error", draw))
    return text, parts


def error_records(result: RegressorsResult, baseline: str) -> list[dict[str, Any]]:
    """One record a set and method; of each metric the error, its standard deviation over seeds, its change and that
    change's paired standard error, in millimetres."""
    records = []
    for title in result.sets:
        for group, names in result.groups.items():
            record: dict[str, Any] = {"set": title, "method": group, "seeds": len(names)}
            for metric in METRIC_TITLES:
                change = result.difference(group, baseline, title, metric)
                record |= error_record(metric, result.errors(group, title, metric), change)
            records.append(record)
    return records


def change_plot(result: RegressorsResult, baseline: str) -> bytes:
    """PNG, a column a set: for each metric what each method changes, ± paired standard error over images."""
    methods = [group for group in result.groups if group != baseline]
    size = (max(4.0, 3.2 * len(result.sets)), 2.2 + 0.15 * len(methods))
    figure, axes = plt.subplots(1, len(result.sets), figsize=size, sharey=True, squeeze=False)
    for axis, title in zip(axes[0], result.sets):
        axis.set_title(title, fontsize=10)
        for number, group in enumerate(methods):
            changes = [result.difference(group, baseline, title, metric) for metric in METRIC_TITLES]
            changes_of_method(axis, changes, number, len(methods), group, colour_of(number + 1))
    return with_changes(figure, axes[0], list(METRIC_TITLES.values()), baseline)
