"""Plots of a finished evaluation: errors against the number of hypotheses, and changes against the baseline. What an
error is, and how changes are paired, is in tables.py; curves over rounds are in round_curves.py."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from adhmr.evaluation.paired import Difference
from adhmr.evaluation.paper_table import predictions
from adhmr.evaluation.tables import METRIC_TITLES, EvaluationResult, image_columns
from adhmr.visualization.plots import plt, png

POINTS = 30  # of a curve over M
LEGEND_COLUMNS = 5


def colour_of(number: int) -> tuple[float, ...]:
    return plt.get_cmap("tab10" if number < 10 else "tab20b")(number % 10 if number < 10 else (number - 10) % 20)


def counts_of(result: EvaluationResult) -> list[int]:
    """The M of a curve, evenly on a logarithmic axis; with official candidates only those that were evaluated."""
    if any("extra_errors" in arrays for arrays in result.arrays.values()):
        return sorted(result.hypotheses)
    steps = np.geomspace(1, max(result.hypotheses), POINTS).round().astype(int).tolist()
    return sorted({*steps, *result.hypotheses})


def minima(result: EvaluationResult, group: str, metric: str, counts: list[int]) -> np.ndarray:
    """(seeds, N, counts) millimetres: of each image the best of the first M."""
    given = result.hypotheses if counts == sorted(result.hypotheses) else counts
    each = []
    for name in result.groups[group]:
        columns = image_columns(result.arrays[name], metric, given)
        each.append(np.stack([columns[f"min {count}"] for count in counts], 1))
    return np.stack(each)


def errors_against_hypotheses(result: EvaluationResult, baseline: str) -> bytes:
    """PNG, a column a metric. Above: the error of the best of M with its spread over seeds. Below: its change against
    the baseline's best of as many, with the paired standard error over images."""
    counts = counts_of(result)
    figure, axes = plt.subplots(2, len(METRIC_TITLES), figsize=(13, 6), sharex=True)
    for column, (metric, heading) in enumerate(METRIC_TITLES.items()):
        above, below = axes[:, column]
        reference = minima(result, baseline, metric, counts).mean(0)  # (N, counts)
        below.axhline(0, color="#bbbbbb", linewidth=0.8)
        for number, group in enumerate(result.groups):
            errors = minima(result, group, metric, counts)
            style = {"color": colour_of(number), "linewidth": 1.4, "label": group}
            means = errors.mean(1)  # (seeds, counts)
            above.plot(counts, means.mean(0), **style)
            if len(means) > 1:
                _band(above, counts, means.mean(0), means.std(0, ddof=1), number)
            if group != baseline:
                change = errors.mean(0) - reference
                below.plot(counts, change.mean(0), **style)
                _band(below, counts, change.mean(0), change.std(0, ddof=1) / len(change) ** 0.5, number)
        above.set_title(heading, fontsize=10)
        below.set_xlabel("hypotheses M", fontsize=9)
        for axis in (above, below):
            axis.set_xscale("log")
            ticks = sorted({counts[0], *result.hypotheses})
            axis.set_xticks(ticks, [str(count) for count in ticks])
            axis.set_xticks([], minor=True)
            _plain(axis)
    axes[0, 0].set_ylabel("best of M (mm)\nband: spread over seeds", fontsize=9)
    axes[1, 0].set_ylabel(f"change against {baseline} (mm)\nband: paired standard error", fontsize=9)
    return with_legend(figure, axes[0, 0])


def changes_by_prediction(result: EvaluationResult, baseline: str) -> bytes:
    """PNG, a column a metric: what each method changes against the baseline in each prediction, ± paired standard error
    over images."""
    columns = predictions(result, baseline)
    methods = [group for group in result.groups if group != baseline]
    numbers = {group: number for number, group in enumerate(result.groups)}
    height = 1.4 + 0.12 * len(columns) * max(len(methods), 2)
    figure, axes = plt.subplots(1, len(METRIC_TITLES), figsize=(13, height), sharey=True)
    for axis, (metric, heading) in zip(axes, METRIC_TITLES.items()):
        for number, group in enumerate(methods):
            changes = [result.difference(group, baseline, metric, column) for column in columns]
            changes_of_method(axis, changes, number, len(methods), group, colour_of(numbers[group]))
        axis.set_title(heading, fontsize=10)
    return with_changes(figure, axes, list(columns.values()), baseline)


def changes_of_method(
    axis: plt.Axes, changes: list[Difference], number: int, methods: int, name: str, colour: tuple[float, ...]
) -> None:
    """One method's changes as points with error bars, one a row; the methods of a row lie below each other."""
    axis.errorbar(
        [change.mean for change in changes],
        np.arange(len(changes)) + 0.7 * ((number + 0.5) / methods - 0.5),
        xerr=[change.standard_error for change in changes],
        label=name,
        color=colour,
        linestyle="none",
        marker="o",
        markersize=3.5,
        elinewidth=1.2,
        capsize=2,
    )


def with_changes(figure: Figure, axes: np.ndarray, rows: list[str], baseline: str) -> bytes:
    """The figure of axes (columns,) of changes_of_method as PNG: the rows' names, a line at no change, a legend."""
    for axis in axes:
        axis.axvline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
        axis.set_xlabel(f"change against {baseline} (mm)", fontsize=9)
        _plain(axis)
    axes[0].set_yticks(np.arange(len(rows)), rows)
    axes[0].set_ylim(len(rows) - 0.5, -0.5)  # the first row is the upper one
    return with_legend(figure, axes[0])


def _band(axis: plt.Axes, x: list[int], middle: np.ndarray, half: np.ndarray, number: int) -> None:
    axis.fill_between(x, middle - half, middle + half, color=colour_of(number), alpha=0.2, linewidth=0)


def _plain(axis: plt.Axes) -> None:
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def with_legend(figure: Figure, axis: plt.Axes) -> bytes:
    """The figure as PNG with the legend of one of its axes below all."""
    handles, labels = axis.get_legend_handles_labels()
    lines = -(-len(labels) // LEGEND_COLUMNS)
    share = 0.28 * lines / figure.get_size_inches()[1]
    columns = min(LEGEND_COLUMNS, len(labels))
    figure.legend(handles, labels, loc="lower center", ncols=columns, fontsize=9, frameon=False)
    figure.tight_layout(rect=(0, share, 1, 1))
    return png(figure, dpi=100)
