"""What a report says of a finished scorers stage: all of its tables and plots, in their order. They are made from
figures.json and sets/*.npz alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from adhmr.evaluation.scorers_plots import order_curves, ranking_bars, score_curves
from adhmr.evaluation.scorers_result import ScorersResult
from adhmr.evaluation.scorers_tables import scorers_tables
from adhmr.evaluation.sections import Part, Picture


def scorers_parts(result: ScorersResult) -> list[Part]:
    parts: list[Part] = list(scorers_tables(result))
    if result.ranks_hypotheses:
        for title in result.sets:
            draw = partial(ranking_bars, result, title)
            parts.append(Picture(f"rankings-{title}", f"{title}: rankings of the base model's own hypotheses", draw))
        note = "each dot is a tenth of the pairs; dashed: what the ranking loss takes a difference for"
        parts.append(
            Picture("order", "order of pairs by difference of scores", partial(order_curves, result), note=note)
        )
    for title in result.sets:
        draw = partial(score_curves, result, title)
        note = "each dot is a tenth of the bodies; the straight line is perfect calibration"
        parts.append(Picture(f"scores-{title}", f"{title}: what a score is worth", draw, note=note))
    return parts


def scorers_text(result: ScorersResult) -> list[str]:
    sets = ", ".join(f"{name} ({entry['samples']} images)" for name, entry in result.about["sets"].items())
    return [
        f"Sets: {sets}. Correlations are of the raw score with negative errors: PLCC is Pearson's, SRCC Spearman's.",
        "Correlations within an image are of the random hypotheses, for the zero-noise one is what the ranking mode "
        "measures the distance to. Picks and pairs are among all, but for the pick without zero.",
    ]


def section(folder: Path, metric: str) -> tuple[list[str], list[Part]]:
    """Paragraphs and parts; `metric` chooses nothing here: rankings are measured by PVE."""
    result = ScorersResult.read(folder)
    return scorers_text(result), scorers_parts(result)
