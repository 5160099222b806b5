"""Which images the pictures of a report show (paper Figure 2): random ones, and the extremes by an evaluation's errors
of the zero-noise hypothesis. Drawing them is the business of example_sheets.py."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adhmr.config.evaluation import ReportStage
from adhmr.data.randomness import generator_for
from adhmr.data.shard_reader import ShardReader
from adhmr.errors import AdhmrError
from adhmr.evaluation.tables import EvaluationResult, image_columns


@dataclass(frozen=True)
class Examples:
    name: str
    title: str
    rows: list[int]  # of the data set, in the order in which they are shown


def choose_examples(config: ReportStage, result: EvaluationResult, reader: ShardReader) -> list[Examples]:
    """Random images; the worst of the baseline; the largest gains and losses of the last model in `compared` against
    it, where that is another one.

    Raises:
        AdhmrError: the evaluation is of another set, so that it says nothing of these images, or lacks that model.
    """
    chosen = []
    if config.pictures:
        count = min(config.pictures, len(reader))
        rows = generator_for(config.seed, "pictures").choice(len(reader), count, replace=False)
        chosen.append(Examples("random", "images drawn at random", sorted(rows.tolist())))
    if not config.extremes:
        return chosen
    settings = result.figures.get("settings", {})
    if settings.get("data") != reader.index.fingerprint:
        raise AdhmrError(
            f"data: {config.data} is not the set that {config.evaluation} evaluated, whose errors choose the extreme "
            "images; name that set, or set extremes: 0"
        )
    rows = np.arange(0, len(reader), settings["protocol"]["stride"])[: settings["images"]]
    base = zero_noise_errors(result, config.baseline)
    worst = np.argsort(-base, kind="stable")[: config.extremes]
    title = f"worst images of {config.baseline}: largest PVE of its zero-noise hypothesis"
    chosen.append(Examples("worst", title, rows[worst].tolist()))
    aligned = config.compared[-1].name if config.compared else config.baseline
    if aligned != config.baseline:
        order = np.argsort(zero_noise_errors(result, aligned) - base, kind="stable")  # gains first
        for name, ends in (("gains", order), ("losses", order[::-1])):
            title = f"largest {name} of {aligned} against {config.baseline}, PVE of the zero-noise hypothesis"
            chosen.append(Examples(name, title, rows[ends[: config.extremes]].tolist()))
    return chosen


def zero_noise_errors(result: EvaluationResult, name: str) -> np.ndarray:
    """(N,) PVE in millimetres of one evaluated model, or the mean over the seeds of a group."""
    if name in result.arrays:
        return image_columns(result.arrays[name], "pve", result.hypotheses)["zero"]
    return result.columns(name, "pve")["zero"].mean(0)
