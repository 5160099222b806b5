"""Which hypotheses of an image become winners and losers (paper section 4.3), as indices and as records. Pure functions
of a ranking's values; how images are ranked is in rankings.py, the fields of a record are in records.py."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from adhmr.config.generation import Strategy
from adhmr.errors import AdhmrError
from adhmr.preference.records import LABEL_INDEX, PAIR_DTYPE

SCORE_SLOPE = 5.0  # of score = sigmoid(5 raw): a scorer's values are raw, its confidence is a score


@dataclass(frozen=True)
class PairRule:
    """How the hypotheses of an image are paired under one ranking. Differences and floor are in the ranking's unit."""

    pairs: int  # K
    strategy: Strategy = "random"
    margin: float = 0.0  # smallest difference of the values in a pair
    floor: float = -math.inf  # smallest value of a winner
    distinct: float = 0.0  # pixels: a hypothesis nearer than this to a better one is a duplicate, and never used

    @classmethod
    def of(cls, settings: Mapping[str, Any], ranking: str) -> PairRule:
        """The rule of a generation with these settings, its stage's keys, for a ranking."""
        floor = settings["confidence"].get(ranking, -math.inf)
        if ranking == "scorer":
            floor = raw_of_score(max(floor, 0.0))
        margin = settings["margin"].get(ranking, 0.0)
        return cls(settings["pairs"], settings["strategy"], margin, floor, settings["distinct"])


def raw_of_score(score: float) -> float:
    """The scorer's raw value whose score sigmoid(5 raw) is this; infinite at 0 and 1."""
    if score in (0.0, 1.0):
        return math.copysign(math.inf, score - 0.5)
    return math.log(score / (1.0 - score)) / SCORE_SLOPE


def make_pairs(
    value: np.ndarray, rule: PairRule, rng: np.random.Generator, distance: np.ndarray | None = None
) -> np.ndarray:
    """Pair better hypotheses with worse.

    random: winners are the top K, losers the bottom K, and chance says who meets whom. best_worst: the i-th best meets
    the i-th worst. With fewer than 2K hypotheses both take K = M // 2, so that none is on both sides. margin: K pairs
    drawn without replacement among all that the rule admits, each with a probability proportional to its difference
    of values; a hypothesis may be in several, and win one and lose another.

    Args:
        value: (M,) the larger the better (a score, or a negative error).
        rule: what is admitted as a pair, and how pairs are chosen.
        rng: keyed by image and ranking; best_worst draws nothing.
        distance: (M, M) pixels between hypotheses; needed when the rule's `distinct` is above 0.

    Returns:
        (P, 2) indices (winner, loser), P <= K.
    """
    if not np.isfinite(value).all():
        raise ValueError(f"make_pairs: ranking values must be finite, got {value}")
    order = _usable(value, rule, distance)
    if rule.strategy == "margin":
        better, worse = np.triu_indices(len(order), 1)
        winners, losers = order[better], order[worse]
    else:
        count = min(rule.pairs, len(order) // 2)
        winners, losers = order[:count], order[len(order) - count :]
        if rule.strategy == "random":
            winners, losers = rng.permutation(winners), rng.permutation(losers)
        else:
            losers = losers[::-1]
    difference = value[winners] - value[losers]
    admitted = (difference >= rule.margin) & (value[winners] >= rule.floor)
    pairs = np.stack([winners, losers], axis=1)[admitted]
    if rule.strategy != "margin":
        return pairs
    return pairs[_drawn(difference[admitted].astype(float), rule.pairs, rng)]


def why_no_pair(value: np.ndarray, rule: PairRule, distance: np.ndarray | None = None) -> str:
    """The key of the guard that leaves an image of these values without a pair: distinct, confidence or margin."""
    order = _usable(value, rule, distance)
    if len(order) < 2:
        return "distinct"
    return "confidence" if value[order[0]] < rule.floor else "margin"


def _usable(value: np.ndarray, rule: PairRule, distance: np.ndarray | None) -> np.ndarray:
    """Indices of the hypotheses that may be paired, best first."""
    order = np.argsort(-value, kind="stable")
    if rule.distinct == 0:
        return order
    usable = np.ones(len(value), bool)
    for index in order:
        if usable[index]:  # what is near to it is worse: it would else be a duplicate itself
            near = distance[index] < rule.distinct
            near[index] = False
            usable &= ~near
    return order[usable[order]]


def _drawn(weight: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of up to `count` draws without replacement, with probabilities proportional to the weights (P,) of what
    is left; nothing of weight 0 is drawn."""
    # The first of independent exponential clocks of these rates to ring is drawn in proportion to its rate.
    clocks = weight / rng.standard_exponential(len(weight))
    rung = np.argsort(-clocks, kind="stable")[:count]
    return rung[weight[rung] > 0]


def pair_records(
    pairs: np.ndarray, uvd: np.ndarray, twists: np.ndarray, value: np.ndarray, errors: np.ndarray
) -> np.ndarray:
    """(P,) PAIR_DTYPE of pairs (P, 2) of one image's hypotheses: uvd (M, 29, 3), twists (M, 23, 2), value and errors
    (M,), NaN where they are not known."""
    records = np.zeros(len(pairs), PAIR_DTYPE)
    for column, side in enumerate(("winner", "loser")):
        index = pairs[:, column]
        records[f"{side}_uvd"], records[f"{side}_twists"] = uvd[index], twists[index]
        records[f"{side}_value"], records[f"{side}_index"] = value[index], index
        records[f"{side}_error"] = errors[index]
    return records


def truth_record(label: dict[str, Any], uvd: np.ndarray, twists: np.ndarray, error: float, margin: float) -> np.ndarray:
    """The released code's pair of a studio image: its label, an item of PersonCrop, wins over the zero-noise hypothesis
    uvd (29, 3), twists (23, 2) of this error in metres; values are negative errors.

    Returns (1,) PAIR_DTYPE, or none when the error is below the margin or some joint or twist of the label is unknown.
    Raises AdhmrError for a label without any twists: then its whole set has none.
    """
    if not label["twist_weight"].any():
        place = f"{label['dataset']}, sample {label['key']}"
        raise AdhmrError(f"{place}: its label has no twists; truth makes a winner of it: use another ranking")
    records = np.zeros(1, PAIR_DTYPE)
    records["winner_uvd"], records["winner_twists"] = label["uvd"], label["twists"]
    records["loser_uvd"], records["loser_twists"] = uvd, twists
    records["winner_index"] = LABEL_INDEX
    records["loser_value"], records["loser_error"] = -error, error
    whole = (label["uvd_weight"] > 0).all() and (label["twist_weight"] > 0).all()
    return records if whole and error >= margin else records[:0]
