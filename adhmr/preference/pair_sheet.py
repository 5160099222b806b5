"""A contact sheet of preference pairs: the winner and the loser of some images over their crops, with what they were
ranked by. Drawing itself is in adhmr.visualization."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.special import expit

from adhmr.data.contact_sheet import spread
from adhmr.data.schema import RawSample
from adhmr.preference.distances import joint_distance
from adhmr.preference.inspect import open_preferences
from adhmr.preference.pair_table import SIDES
from adhmr.preference.pairing import SCORE_SLOPE
from adhmr.preference.records import LABEL_INDEX
from adhmr.visualization.drawing import draw_text, grid
from adhmr.visualization.picture_file import write_picture
from adhmr.visualization.preference_drawing import draw_sides

COLUMNS = 4
LINE = 14  # pixels, of a line of text


def pair_sheet(folder: str | Path, count: int, path: str | Path) -> Path:
    """Write a picture of one pair of each of `count` images spread evenly over the folder: winner green, loser red.

    Raises AdhmrError for a folder without pairs, a corrupt sample, and a picture that cannot be written.
    """
    reader = open_preferences(folder)
    cells = []
    for number, row in enumerate(spread(len(reader), count)):
        sample = reader.read(row)
        pairs = sample.extras["pairs.npy"]
        if len(pairs):  # keep: all keeps images without
            cells.append(_cell(sample, pairs[number % len(pairs)], number % len(pairs) + 1, len(pairs)))
    return write_picture(path, grid(cells, min(COLUMNS, len(cells)), gap=6))


def _cell(sample: RawSample, pair: np.void, number: int, pairs: int) -> np.ndarray:
    panels = draw_sides(sample.image, *(pair[f"{side}_uvd"][None, :, :2] for side in SIDES))
    by_score = sample.provenance["ranking"] == "scorer"
    captions = [_caption(pair, side, by_score) for side in SIDES]
    below = [_line(caption, panel.shape[1]) for caption, panel in zip(captions, panels)]
    body = np.concatenate([np.concatenate(panels, axis=1), np.concatenate(below, axis=1)])
    distance = joint_distance(pair["winner_uvd"], pair["loser_uvd"], sample.image.shape[0])
    return np.concatenate([_line(f"{sample.key}   pair {number} of {pairs}   {distance:.1f} px", body.shape[1]), body])


def _caption(pair: np.void, side: str, by_score: bool) -> str:
    """Which hypothesis, its value (and as a score where it was ranked by one), and its error where it is known."""
    index, value, error = (pair[f"{side}_{kind}"] for kind in ("index", "value", "error"))
    name = "label" if index == LABEL_INDEX else f"#{index}"
    score = f"  score {expit(SCORE_SLOPE * value):.3f}" if by_score else ""
    return f"{name}  value {value:.3g}{score}" + ("" if np.isnan(error) else f"  {1000 * error:.0f} mm")


def _line(text: str, width: int) -> np.ndarray:
    return draw_text(np.full((LINE, width, 3), 30, np.uint8), text)
