import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adhmr.data.sampler import Plan, PlanSet, SetOrder, largest_remainder
from adhmr.errors import AdhmrError

SETS = (
    PlanSet("alpha", (50, 50, 23), 0.5, "aaaa"),
    PlanSet("beta", (40,), 0.3, "bbbb"),
    PlanSet("gamma", (7, 9, 1), 0.2, "cccc"),
)


def small_plan(sets=SETS, seed=7, **options):
    return Plan(sets, seed, period=100, block=8, window=4, **options)


def samples(plan, first, stop):
    found = [plan.sample_at(position) for position in range(first, stop)]
    return [(plan.sets[number].name, epoch, row) for number, epoch, row in found]


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(lambda counts: sum(counts) > 0),
    block=st.integers(1, 20),
    window=st.integers(1, 6),
    seed=st.integers(0, 2**32),
)
def test_every_row_comes_exactly_once_an_epoch(counts, block, window, seed):
    order = SetOrder("set", counts, seed, block, window)
    total = sum(counts)
    epochs = [[order.at(epoch * total + place) for place in range(total)] for epoch in range(2)]
    for number, epoch in enumerate(epochs):
        assert {found for found, _ in epoch} == {number}
        assert sorted(row for _, row in epoch) == list(range(total))


def test_epochs_are_shuffled_and_differ():
    order = SetOrder("set", (200, 200), 0, 8, 4)
    first, second = ([order.at(epoch * 400 + place)[1] for place in range(400)] for epoch in range(2))
    assert first != second and first != sorted(first)
    # A window of 4 blocks of 8 rows touches at most 4 stretches of 8 rows: reads stay local.
    assert len({row // 8 for row in first[:32]}) == 4


@given(weights=st.lists(st.floats(0.05, 10), min_size=1, max_size=8))
def test_quotas_are_the_nearest_whole_numbers(weights):
    named = {f"set{number}": weight for number, weight in enumerate(weights)}
    names, quotas = largest_remainder(named, 4096)
    shares = np.asarray([named[name] for name in names]) / sum(weights) * 4096
    assert sum(quotas) == 4096 and np.abs(np.asarray(quotas) - shares).max() < 1


def test_proportions_are_exact_in_every_period():
    plan = small_plan()
    for period in (0, 1, 57):
        counts = Counter(name for name, _, _ in samples(plan, period * 100, period * 100 + 100))
        assert counts == {"alpha": 50, "beta": 30, "gamma": 20}


def test_sets_wrap_around_on_their_own_and_stay_complete():
    drawn = samples(small_plan(), 0, 2000)
    for plan_set in SETS:
        own = [(epoch, row) for name, epoch, row in drawn if name == plan_set.name]
        total = sum(plan_set.shard_counts)
        assert [epoch for epoch, _ in own] == [draw // total for draw in range(len(own))]
        for epoch in range(len(own) // total):
            assert sorted(row for found, row in own if found == epoch) == list(range(total))


def test_the_order_of_the_list_of_sets_does_not_matter():
    assert samples(small_plan(), 0, 300) == samples(small_plan(SETS[::-1]), 0, 300)


def test_a_position_can_be_entered_anywhere_and_from_another_process():
    plan = small_plan()
    straight = samples(plan, 0, 1000)
    assert samples(small_plan(), 640, 660) == straight[640:660]
    assert samples(pickle.loads(pickle.dumps(plan)), 990, 1000) == straight[990:]
    far = small_plan().sample_at(10**12)
    assert far == small_plan().sample_at(10**12)
    assert straight != samples(small_plan(seed=8), 0, 1000)


def test_the_order_is_fixed_for_ever():
    """A change here reorders every run that is under way: raise PLAN_VERSION with it."""
    assert small_plan().checksum() == "5eed4391e6f9f224e0e10883b493b3674420c4ca92208a1d970cc3e24e294f8f"


def test_weights_too_small_and_bad_sets_are_refused():
    with pytest.raises(AdhmrError, match=r"data set tiny with weight 0\.001 gets none of the 100 samples"):
        small_plan((*SETS, PlanSet("tiny", (5,), 0.001)))
    with pytest.raises(AdhmrError, match="positive"):
        small_plan((*SETS, PlanSet("none", (5,), -1.0)))
    with pytest.raises(AdhmrError, match="nothing would be drawn"):
        small_plan([PlanSet("none", (5,), 0.0)])
    with pytest.raises(AdhmrError, match="no samples"):
        small_plan((*SETS, PlanSet("empty", (0,), 0.1)))
    with pytest.raises(AdhmrError, match="names must differ"):
        small_plan((*SETS, SETS[0]))


@pytest.mark.parametrize("start", [200, 237])
def test_a_change_of_weights_keeps_what_was_drawn(start):
    plan = small_plan()
    changed = plan.switched(start, {"alpha": 0.1, "gamma": 0.9})
    assert samples(changed, 0, start) == samples(plan, 0, start)
    later = samples(changed, start, start + 100)
    assert Counter(name for name, _, _ in later) == {"alpha": 10, "gamma": 90}
    back = changed.switched(start + 150, {"alpha": 0.4, "beta": 0.4, "gamma": 0.2})
    drawn = samples(back, 0, 1000)
    for plan_set in SETS:  # every epoch is still complete, across both changes and beta's absence
        own = [(epoch, row) for name, epoch, row in drawn if name == plan_set.name]
        total = sum(plan_set.shard_counts)
        for epoch in range(len(own) // total):
            assert sorted(row for found, row in own if found == epoch) == list(range(total))
    with pytest.raises(AdhmrError, match="no data set is called delta"):
        plan.switched(0, {"delta": 1.0})
    with pytest.raises(AdhmrError, match="changed at"):
        back.switched(start, {"alpha": 1.0})


def test_skipped_ranges_are_jumped_over():
    plan = small_plan(skip_ranges=[(20, 30), (10, 12), (28, 35)])
    assert plan.skip_ranges == ((10, 12), (20, 35))
    assert [plan.position_of(index) for index in (0, 9, 10, 17, 18, 19)] == [0, 9, 12, 19, 35, 36]
    assert small_plan().position_of(12345) == 12345
    with pytest.raises(AdhmrError, match="skip range"):
        small_plan(skip_ranges=[(5, 5)])
