"""Curves of a finished evaluation over the rounds of alignment, when the evaluated models are those of one pipeline.
Which errors there are, and how they are paired, is in tables.py."""

from __future__ import annotations

from matplotlib.ticker import MaxNLocator

from adhmr.evaluation.tables import METRIC_TITLES, EvaluationResult, round_columns
from adhmr.visualization.plots import plt, png

LINES = [("#2ca02c", "^"), ("#1f77b4", "o"), ("#7f7f7f", "s"), ("#d62728", "D")]  # of round_columns


def round_curves(result: EvaluationResult, baseline: str) -> bytes:
    """A picture (PNG): for each metric the change of its errors against the baseline over the rounds, with paired
    standard errors over images."""
    figure, axes = plt.subplots(1, len(METRIC_TITLES), figsize=(13, 3.4))
    numbers = list(result.rounds)
    for axis, (metric, heading) in zip(axes, METRIC_TITLES.items()):
        axis.axhline(0, color="#bbbbbb", linewidth=0.8)
        for title, (colour, marker) in zip(round_columns(result, baseline), LINES):
            changes = [result.difference(group, baseline, metric, title) for group in result.rounds.values()]
            axis.errorbar(
                numbers,
                [change.mean for change in changes],
                [change.standard_error for change in changes],
                label=title,
                color=colour,
                marker=marker,
                markersize=4,
                linewidth=1.4,
                elinewidth=0.8,
                capsize=2,
            )
        axis.set_title(heading, fontsize=10)
        axis.set_xlabel("round", fontsize=9)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(f"change against {baseline} (mm)", fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), fontsize=9, frameon=False)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    return png(figure, dpi=90)
