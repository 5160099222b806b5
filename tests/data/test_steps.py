"""The arithmetic of steps: batches that change, and their shares of ranks and micro-steps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adhmr.data.steps import BatchSizes, StepBatches, micro_batches
from adhmr.errors import AdhmrError

CONSTANT = BatchSizes([(0, 12)])


@pytest.mark.parametrize(
    ("micro_batch", "world_size", "size", "accumulation"),
    [(None, 1, 12, 1), (None, 4, 3, 1), (2, 3, 2, 2), (3, 1, 3, 4)],
)
def test_micro_batches(micro_batch, world_size, size, accumulation):
    assert micro_batches(CONSTANT, 7, micro_batch, world_size) == (size, accumulation)


@pytest.mark.parametrize(("micro_batch", "world_size"), [(5, 1), (None, 5), (4, 2), (None, 16)])
def test_uneven_batch_is_refused(micro_batch, world_size):
    with pytest.raises(AdhmrError, match=r"^train.global_batch 12 is not a multiple of \d+ processes x micro_batch"):
        micro_batches(CONSTANT, 0, micro_batch, world_size)


def test_the_phase_whose_batch_does_not_divide_is_named():
    sizes = BatchSizes([(0, 8), (5, 16), (9, 12)])
    assert StepBatches(sizes, 4, 0, 2, 0, 9)
    with pytest.raises(AdhmrError, match=r"^the phase's global_batch from step 9 on, 12 is not a multiple of .* = 8:"):
        StepBatches(sizes, 4, 0, 2, 0, 10)


def test_a_change_to_the_same_batch_is_none():
    assert BatchSizes([(0, 8), (5, 8), (7, 4), (9, 4)]).changes == ((0, 8), (7, 4))
    with pytest.raises(AdhmrError, match="rising"):
        BatchSizes([(0, 8), (5, 4), (5, 2)])


changing = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 4)), max_size=4)


@given(changing, st.integers(1, 4), st.sampled_from([1, 2, 3, 4, 8, 12, 16]), st.integers(1, 3), st.integers(0, 20))
def test_the_shares_of_all_ranks_are_every_index_once(changes, first, world_size, micro_batch, start):
    """Whatever the batches, the ranks and the micro-batches: steps follow each other without gap or overlap."""
    unit, step, pairs = world_size * micro_batch, 0, [(0, first * world_size * micro_batch)]
    for after, factor in changes:
        step += after
        pairs.append((step, factor * unit))
    sizes, stop = BatchSizes(pairs), start + 6
    indices = [list(StepBatches(sizes, micro_batch, rank, world_size, start, stop)) for rank in range(world_size)]
    assert len({len(share) for share in indices}) == 1
    assert len(indices[0]) == len(StepBatches(sizes, micro_batch, 0, world_size, start, stop))
    assert all(len(part) == micro_batch for share in indices for part in share)
    found = sorted(index for share in indices for part in share for index in part)
    assert found == list(range(sizes.first_index(start), sizes.first_index(stop)))
    assert [sizes.first_index(s + 1) - sizes.first_index(s) for s in range(start, stop)] == [
        sizes.at(s) for s in range(start, stop)
    ]
    # Micro-steps are in order: each holds a stretch of its own of the step, shared by the ranks.
    assert all(share == sorted(share) for share in indices)
