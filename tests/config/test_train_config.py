"""The arithmetic of global batch, micro-batch and processes."""

import pytest

from adhmr.config.training import TrainConfig
from adhmr.errors import AdhmrError


@pytest.mark.parametrize(
    ("micro_batch", "world_size", "size", "accumulation"),
    [(None, 1, 12, 1), (None, 4, 3, 1), (2, 3, 2, 2), (3, 1, 3, 4)],
)
def test_micro_batches(micro_batch, world_size, size, accumulation):
    train = TrainConfig(steps=1, global_batch=12, micro_batch=micro_batch)
    assert train.micro_batch_size(world_size) == size
    assert train.accumulation(world_size) == accumulation


@pytest.mark.parametrize(("micro_batch", "world_size"), [(5, 1), (None, 5), (4, 2), (None, 16)])
def test_uneven_batch_is_refused(micro_batch, world_size):
    with pytest.raises(AdhmrError, match=r"train.global_batch=12 is not a multiple"):
        TrainConfig(steps=1, global_batch=12, micro_batch=micro_batch).accumulation(world_size)
