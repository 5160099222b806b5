import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adhmr.preference.pairing import make_pairs

values = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=40, unique=True).map(np.array)
number_of_pairs, margins, seeds = st.integers(1, 12), st.floats(0, 100), st.integers(0, 2**32)


@given(values, number_of_pairs, margins, seeds)
def test_winners_from_the_top_losers_from_the_bottom(value, pairs, margin, seed):
    made = make_pairs(value, pairs, margin, np.random.default_rng(seed))
    count = min(pairs, len(value) // 2)
    order = np.argsort(-value)
    winners, losers = made.T.tolist()
    assert len(made) <= count
    assert set(winners) <= set(order[:count]) and set(losers) <= set(order[-count:])
    assert len(set(winners)) == len(winners) and len(set(losers)) == len(losers)
    assert not set(winners) & set(losers)
    assert (value[made[:, 0]] - value[made[:, 1]] >= margin).all()


@given(values, number_of_pairs, seeds)
def test_without_a_margin_all_of_both_ends_are_used(value, pairs, seed):
    made = make_pairs(value, pairs, 0.0, np.random.default_rng(seed))
    count = min(pairs, len(value) // 2)
    order = np.argsort(-value)
    assert set(made[:, 0]) == set(order[:count]) and set(made[:, 1]) == set(order[-count:])


@given(values, number_of_pairs, margins, seeds)
def test_the_order_of_the_hypotheses_does_not_matter(value, pairs, margin, seed):
    shuffle = np.random.default_rng(seed + 1).permutation(len(value))
    made = make_pairs(value, pairs, margin, np.random.default_rng(seed))
    of_shuffled = make_pairs(value[shuffle], pairs, margin, np.random.default_rng(seed))
    np.testing.assert_array_equal(shuffle[of_shuffled], made)


def test_pairs_are_drawn_and_not_always_best_with_worst():
    value = np.arange(20.0)
    met = {tuple(make_pairs(value, 5, 0.0, np.random.default_rng(seed))[:, 1]) for seed in range(20)}
    assert len(met) > 10


def test_equal_values_and_a_margin_give_no_pair():
    assert make_pairs(np.ones(10), 5, 0.1, np.random.default_rng(0)).shape == (0, 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused(bad):
    with pytest.raises(ValueError, match="finite"):
        make_pairs(np.array([0.0, bad, 1.0]), 1, 0.0, np.random.default_rng(0))
