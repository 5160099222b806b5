import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.special import expit

from adhmr.preference.distances import distance_matrix, joint_distance
from adhmr.preference.pairing import PairRule, make_pairs, raw_of_score, why_no_pair

values = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=40, unique=True).map(np.array)
number_of_pairs, margins, seeds = st.integers(1, 12), st.floats(0, 100), st.integers(0, 2**32)
strategies = st.sampled_from(["random", "best_worst", "margin"])
floors, radii = st.one_of(st.just(-math.inf), st.floats(-1e3, 1e3)), st.one_of(st.just(0.0), st.floats(0, 40))
rules = st.builds(PairRule, number_of_pairs, strategies, margins, floors, radii)


def rng(seed=0) -> np.random.Generator:
    return np.random.default_rng(seed)


def points(count, seed) -> np.ndarray:
    """(M, M) pixels between hypotheses here and there in a crop, some near to one another."""
    return distance_matrix(rng(seed).uniform(0, 20, (count, 29, 3)) + 10 * rng(seed).integers(0, 3, (count, 1, 1)), 96)


# ---------------------------------------------------------------------------------------------- of all strategies
@given(values, rules, seeds)
def test_what_every_pair_is(value, rule, seed):
    distance = points(len(value), seed)
    made = make_pairs(value, rule, rng(seed), distance)
    winners, losers = made.T
    assert len(made) <= rule.pairs and len(set(map(tuple, made.tolist()))) == len(made)
    assert (winners != losers).all()
    assert (value[winners] > value[losers]).all()
    assert (value[winners] - value[losers] >= rule.margin).all()
    assert (value[winners] >= rule.floor).all()
    used = np.unique(made)
    assert (distance[np.ix_(used, used)][~np.eye(len(used), dtype=bool)] >= rule.distinct).all()


@given(values, rules, seeds)
def test_the_same_again(value, rule, seed):
    distance = points(len(value), seed)
    once, again = (make_pairs(value, rule, rng(seed), distance) for _ in range(2))
    np.testing.assert_array_equal(once, again)


@given(values, rules, seeds)
def test_the_order_of_the_hypotheses_does_not_matter(value, rule, seed):
    distance, shuffle = points(len(value), seed), rng(seed + 1).permutation(len(value))
    made = make_pairs(value, rule, rng(seed), distance)
    of_shuffled = make_pairs(value[shuffle], rule, rng(seed), distance[np.ix_(shuffle, shuffle)])
    np.testing.assert_array_equal(shuffle[of_shuffled], made)


@given(values, number_of_pairs, st.sampled_from(["random", "best_worst"]), radii, seeds)
def test_only_the_order_of_the_values_counts_without_thresholds(value, pairs, strategy, radius, seed):
    rule, distance = PairRule(pairs, strategy, distinct=radius), points(len(value), seed)
    transformed = np.argsort(np.argsort(value)) ** 3.0 - 7.0  # any rising function of them
    made = make_pairs(value, rule, rng(seed), distance)
    np.testing.assert_array_equal(make_pairs(transformed, rule, rng(seed), distance), made)


@given(values, rules, seeds)
def test_guards_only_take_away(value, rule, seed):
    """Whoever is left without a pair is told by which guard; without any guard there is a pair."""
    distance = points(len(value), seed)
    if not len(make_pairs(value, rule, rng(seed), distance)):
        why = why_no_pair(value, rule, distance)
        without = {
            "distinct": {"distinct": 0.0, "margin": 0.0, "floor": -math.inf},
            "confidence": {"floor": -math.inf, "margin": 0.0},
            "margin": {"margin": 0.0, "floor": -math.inf},  # winners above the floor met losers that are too near
        }[why]
        assert len(make_pairs(value, PairRule(**{**vars(rule), **without}), rng(seed), distance))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused(bad):
    with pytest.raises(ValueError, match="finite"):
        make_pairs(np.array([0.0, bad, 1.0]), PairRule(1), rng())


# ------------------------------------------------------------------------------------------ random and best_worst
@given(values, number_of_pairs, st.sampled_from(["random", "best_worst"]), margins, seeds)
def test_winners_from_the_top_losers_from_the_bottom(value, pairs, strategy, margin, seed):
    made = make_pairs(value, PairRule(pairs, strategy, margin), rng(seed))
    count = min(pairs, len(value) // 2)
    order = np.argsort(-value)
    winners, losers = made.T.tolist()
    assert len(made) <= count
    assert set(winners) <= set(order[:count]) and set(losers) <= set(order[-count:])
    assert len(set(winners)) == len(winners) and len(set(losers)) == len(losers)
    assert not set(winners) & set(losers)


@given(values, number_of_pairs, st.sampled_from(["random", "best_worst"]), seeds)
def test_without_a_margin_all_of_both_ends_are_used(value, pairs, strategy, seed):
    made = make_pairs(value, PairRule(pairs, strategy), rng(seed))
    count = min(pairs, len(value) // 2)
    order = np.argsort(-value)
    assert set(made[:, 0]) == set(order[:count]) and set(made[:, 1]) == set(order[-count:])


def test_pairs_are_drawn_and_not_always_best_with_worst():
    value = np.arange(20.0)
    met = {tuple(make_pairs(value, PairRule(5), rng(seed))[:, 1]) for seed in range(20)}
    assert len(met) > 10


@given(values, number_of_pairs)
def test_the_ith_best_meets_the_ith_worst(value, pairs):
    made = make_pairs(value, PairRule(pairs, "best_worst"), rng())
    rising = np.argsort(value).tolist()
    assert made.tolist() == [[rising[-1 - i], rising[i]] for i in range(len(made))] and len(made)


def test_equal_values_and_a_margin_give_no_pair():
    assert make_pairs(np.ones(10), PairRule(5, margin=0.1), rng()).shape == (0, 2)
    assert make_pairs(np.ones(10), PairRule(5, "margin"), rng()).shape == (0, 2)


def test_chance_is_drawn_as_it_was():
    """Shards of older runs go on: the pairs of a key are those that they hold."""
    value = np.array([0.3, -1.2, 0.8, 0.1, 2.5, -0.4, 1.1, 0.0], np.float32)
    made = make_pairs(value, PairRule(3), rng(7))
    order = np.argsort(-value, kind="stable")
    drawn = rng(7)
    expected = np.stack([drawn.permutation(order[:3]), drawn.permutation(order[5:])], axis=1)
    np.testing.assert_array_equal(made, expected)


# --------------------------------------------------------------------------------------------------------- margin
@given(values, margins, seeds)
def test_enough_pairs_are_all_that_are_admitted(value, margin, seed):
    made = make_pairs(value, PairRule(2000, "margin", margin), rng(seed))
    admitted = {(w, l) for w in range(len(value)) for l in range(len(value)) if value[w] > value[l]}
    admitted = {(w, l) for w, l in admitted if value[w] - value[l] >= margin}
    assert set(map(tuple, made.tolist())) == admitted


def test_the_first_is_drawn_in_proportion_to_its_difference_and_the_others_of_what_is_left():
    value = np.array([0.0, 1.0, 3.0])  # differences 1, 3, 2
    counts, draws = np.zeros((3, 3, 3, 3)), 6000
    for seed in range(draws):
        first, second = make_pairs(value, PairRule(2, "margin"), rng(seed))
        counts[(*first, *second)] += 1
    pairs = {(1, 0): 1, (2, 0): 3, (2, 1): 2}
    for first, weight in pairs.items():
        for second, other in pairs.items():
            share = 0 if first == second else weight / 6 * other / (6 - weight)
            assert counts[(*first, *second)] / draws == pytest.approx(share, abs=0.025)


# --------------------------------------------------------------------------------------------------------- guards
@given(values, seeds, st.floats(1, 40))
def test_duplicates_of_better_ones_are_left_out_and_no_other(value, seed, radius):
    distance = points(len(value), seed)
    made = make_pairs(value, PairRule(2000, "margin", distinct=radius), rng(seed), distance)
    kept = set(np.unique(made))
    assume(kept)
    for index in set(range(len(value))) - kept:
        assert any(distance[index, other] < radius and value[other] > value[index] for other in kept)


def test_of_twins_the_better_is_used():
    uvd = np.zeros((4, 29, 3))
    uvd[:, :, 0] = np.array([0.0, 1.0, 10.0, 20.0])[:, None]
    value = np.array([3.0, 4.0, 2.0, 1.0])
    made = make_pairs(value, PairRule(5, "margin", distinct=2.0), rng(), distance_matrix(uvd, 96))
    assert set(map(tuple, made.tolist())) == {(1, 2), (1, 3), (2, 3)}


def test_the_distance_is_that_of_the_ranking_mode():
    one, other = np.zeros((29, 3)), np.zeros((29, 3))
    other[:] = 3.0, 0.0, 4.0 / 48  # metres of depth: 4 pixels of a crop of 96
    assert joint_distance(one, other, 96) == pytest.approx(5.0)
    assert distance_matrix(np.stack([one, other]), 96) == pytest.approx(np.array([[0.0, 5.0], [5.0, 0.0]]))


@given(st.floats(0, 1))
def test_the_confidence_of_a_scorer_is_a_score(score):
    assert expit(5 * raw_of_score(score)) == pytest.approx(score, abs=1e-12)


def test_a_rule_takes_the_thresholds_of_its_ranking():
    settings = {
        "pairs": 5,
        "strategy": "best_worst",
        "margin": {"error": 0.01},
        "confidence": {"scorer": 0.5, "error": -0.1},
        "distinct": 2.0,
    }
    assert PairRule.of(settings, "error") == PairRule(5, "best_worst", 0.01, -0.1, 2.0)
    assert PairRule.of(settings, "scorer") == PairRule(5, "best_worst", 0.0, 0.0, 2.0)
    assert PairRule.of({**settings, "confidence": {}}, "scorer").floor == -math.inf
