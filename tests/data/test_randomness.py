import numpy as np

from adhmr.data.randomness import RandomKey, generator_for, permutation_for


def test_purposes_and_positions_are_independent_and_repeatable():
    key = RandomKey(3, 17)
    draws = [key.rng("augment").random(4), key.rng("noise").random(4), RandomKey(3, 18).rng("augment").random(4)]
    np.testing.assert_array_equal(draws[0], RandomKey(3, 17).rng("augment").random(4))
    assert len({tuple(draw) for draw in draws}) == 3


def test_parts_do_not_run_together():
    streams = [generator_for(*parts).integers(2**63) for parts in (("a", "b"), ("ab",), (1,), ("1",), (11,), (1, 1))]
    assert len(set(streams)) == len(streams)
    assert generator_for(np.int64(5)).integers(2**63) == generator_for(5).integers(2**63)


def test_permutations_are_fixed_for_ever():
    assert permutation_for(10, 0, "golden").tolist() == [8, 1, 2, 0, 7, 5, 6, 3, 9, 4]
    assert sorted(permutation_for(1000, 1).tolist()) == list(range(1000))
