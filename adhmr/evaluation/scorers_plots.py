"""Plots of a finished scorers stage: rankings compared, scores against errors, differences of scores against order.
What the numbers are is in scorers_result.py and calibration.py."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from adhmr.evaluation.calibration import order_curve, score_curve, target_scores
from adhmr.evaluation.error_plots import colour_of
from adhmr.evaluation.scorers_result import PVE, ScorersResult
from adhmr.visualization.plots import plt, png

TRAINING_FREE_COLOUR = "#999999"
DOTS = {"linewidth": 1.2, "marker": "o", "markersize": 4}
PANELS = {
    "within": "within-image SRCC",
    "right": "right pairs",
    "pick": "pick: change of PVE\nagainst zero-noise (mm)",
    "top5": "mean of the top 5: change of PVE\nagainst zero-noise (mm)",
}


def ranking_bars(result: ScorersResult, title: str) -> bytes:
    """PNG: each method's correlation within an image and share of right pairs ± standard errors over images; and what
    the PVE of its pick and of the mean of its five best is against the zero-noise hypothesis, ± paired ones."""
    methods = [*result.rankings, *result.groups]
    colours = [TRAINING_FREE_COLOUR] * len(result.rankings) + [colour_of(n) for n in range(len(result.groups))]
    figure, axes = plt.subplots(1, len(PANELS), figsize=(13, 1.4 + 0.32 * len(methods)), sharey=True)
    mean = result.references(title)["mean hypothesis"] - result.references(title)["zero-noise"]
    for axis, (column, heading) in zip(axes, PANELS.items()):
        for place, (method, colour) in enumerate(zip(methods, colours)):
            values = result.images(title, method)[column].mean(0)
            if column in ("pick", "top5"):
                values = values - result.references(title)["zero-noise"]
            error = values.std(ddof=1) / len(values) ** 0.5
            axis.errorbar(values.mean(), place, xerr=error, color=colour, marker="o", markersize=5, capsize=3)
        axis.axvline(0.5 if column == "right" else 0.0, color="#bbbbbb", linewidth=0.8)
        if column in ("pick", "top5"):
            axis.axvline(mean.mean(), color="black", linewidth=0.9, linestyle="--", label="mean hypothesis")
        axis.set_xlabel(heading, fontsize=9)
        _plain(axis)
    axes[0].set_yticks(np.arange(len(methods)), methods)
    axes[0].set_ylim(len(methods) - 0.5, -0.5)
    return _with_legend(figure, axes[-1])


def score_curves(result: ScorersResult, title: str) -> bytes:
    """PNG, a column a kind of body: in bins of the score the mean target score (above; the diagonal is perfect) and the
    mean PVE (below). All seeds of a method in one pool."""
    kinds = list(result.scored(title, next(iter(result.groups))))
    figure, axes = plt.subplots(2, len(kinds), figsize=(1.5 + 3.1 * len(kinds), 6), squeeze=False, sharex=True)
    for number, method in enumerate(result.groups):
        for column, (raw, errors) in enumerate(result.scored(title, method).values()):
            for axis, found in ((axes[0, column], target_scores(errors)), (axes[1, column], errors[..., PVE])):
                curve = score_curve(raw, np.broadcast_to(found, raw.shape))
                axis.plot(curve.expected, curve.found, color=colour_of(number), label=method, **DOTS)
    for column, kind in enumerate(kinds):
        axes[0, column].plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8)
        axes[0, column].set_title(kind, fontsize=10)
        axes[1, column].set_xlabel("score s", fontsize=9)
        for axis in axes[:, column]:
            _plain(axis)
    axes[0, 0].set_ylabel("score that the errors deserve", fontsize=9)
    axes[1, 0].set_ylabel("mean PVE (mm)", fontsize=9)
    return _with_legend(figure, axes[0, 0])


def order_curves(result: ScorersResult) -> bytes:
    """PNG, a column a set: share of the pairs of a base model's own hypotheses in the right order, against the
    difference of their raw scores; dashed is what the ranking loss takes it for. All seeds in one pool."""
    figure, axes = plt.subplots(1, len(result.sets), figsize=(1.5 + 3.6 * len(result.sets), 3.6), squeeze=False)
    for axis, title in zip(axes[0], result.sets):
        for number, method in enumerate(result.groups):
            raw, errors = result.scored(title, method)["own hypotheses"]
            pooled = np.concatenate(list(raw)), np.concatenate([errors[..., PVE]] * len(raw))
            difference, curve = order_curve(*pooled)
            axis.plot(difference, curve.found, color=colour_of(number), label=method, **DOTS)
            axis.plot(difference, curve.expected, color=colour_of(number), linewidth=0.9, linestyle="--")
        axis.axhline(0.5, color="#bbbbbb", linewidth=0.8)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("difference of raw scores", fontsize=9)
        _plain(axis)
    axes[0, 0].set_ylabel("pairs in the right order", fontsize=9)
    return _with_legend(figure, axes[0, 0])


def _plain(axis: plt.Axes) -> None:
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _with_legend(figure: Figure, axis: plt.Axes) -> bytes:
    handles, labels = axis.get_legend_handles_labels()
    share = 0.3 / figure.get_size_inches()[1]
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), fontsize=9, frameon=False)
    figure.tight_layout(rect=(0, share, 1, 1))
    return png(figure, dpi=100)
