"""What a report says of a finished evaluate stage: all of its tables and plots, in their order. They are made from
figures.json and models/*.npz alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from adhmr.evaluation.ablation_table import ablation_table
from adhmr.evaluation.error_plots import changes_by_prediction, errors_against_hypotheses
from adhmr.evaluation.paper_table import claim_table, paper_table
from adhmr.evaluation.round_curves import round_curves
from adhmr.evaluation.sections import Part, Picture
from adhmr.evaluation.tables import EvaluationResult, evaluation_tables


def evaluation_parts(result: EvaluationResult, baseline: str, metric: str) -> list[Part]:
    """`metric`: of the table with a line a method."""
    several = len(result.groups) > 1
    parts: list[Part] = [paper_table(result, baseline)]
    claim = claim_table(result, baseline)
    if claim is not None:
        parts.append(claim)
    if several:
        parts.append(ablation_table(result, baseline, metric))
    draw = partial(errors_against_hypotheses, result, baseline)
    parts.append(Picture("errors-against-hypotheses", "errors against the number of hypotheses", draw))
    if several:
        draw = partial(changes_by_prediction, result, baseline)
        parts.append(Picture("changes", f"changes against {baseline} ± paired standard error", draw))
    if len(result.rounds) > 1:
        parts.append(Picture("round-curves", "changes by round", partial(round_curves, result, baseline)))
    return [*parts, *evaluation_tables(result, baseline)]


def evaluation_text(result: EvaluationResult) -> list[str]:
    return [
        f"Protocol {result.protocol}, {result.figures['samples']} images; errors in millimetres. Best of M (min M): of "
        "the first M hypotheses the best by the label; zero-noise (zero): the one that starts from zero noise; mean: "
        "the mean hypothesis; random: the average over random ones; scorer's pick: the highest score.",
        "Methods with several training seeds: mean ± standard deviation over seeds. Changes against the baseline: ± "
        "paired standard error over images, seeds averaged within an image first.",
    ]


def section(folder: Path, metric: str) -> tuple[list[str], list[Part]]:
    """Paragraphs and parts; the first method of the evaluation is the baseline."""
    result = EvaluationResult(folder)
    return evaluation_text(result), evaluation_parts(result, next(iter(result.groups)), metric)
