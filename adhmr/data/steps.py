"""Which samples of the stream each step takes, and how ranks and micro-steps share them. Pure arithmetic.

Which sample comes at an index of the stream is in sampler.py, changes of the mixture are in step_plan.py.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise

from adhmr.errors import AdhmrError


class BatchSizes:
    """The global batch of every step: `changes` are (from_step, global_batch), the first from step 0."""

    def __init__(self, changes: Sequence[tuple[int, int]]) -> None:
        kept = [pair for pair, before in zip(changes, [None, *changes]) if before is None or pair[1] != before[1]]
        self.changes = tuple((int(step), int(size)) for step, size in kept)
        self._steps = [step for step, _ in self.changes]
        if self._steps[0] != 0 or self._steps != sorted(set(self._steps)):
            raise AdhmrError(f"global batches change at steps {self._steps}: expected 0 first, then rising steps")
        self._first = [0]  # index of each change's first sample
        for (step, size), (following, _) in pairwise(self.changes):
            self._first.append(self._first[-1] + (following - step) * size)

    def at(self, step: int) -> int:
        """The global batch of a step."""
        return self.changes[self._number(step)][1]

    def first_index(self, step: int) -> int:
        """The stream index of a step's first sample: piecewise linear in the step."""
        number = self._number(step)
        from_step, size = self.changes[number]
        return self._first[number] + (step - from_step) * size

    def _number(self, step: int) -> int:
        if step < 0:
            raise IndexError(f"step {step}")
        return bisect_right(self._steps, step) - 1


def micro_batches(sizes: BatchSizes, step: int, micro_batch: int | None, world_size: int) -> tuple[int, int]:
    """(samples in a micro-batch, micro-batches of a rank) in a step; without `micro_batch` a rank's share is one.

    Raises AdhmrError unless they divide the global batch evenly.
    """
    global_batch = sizes.at(step)
    micro_batch = micro_batch or max(global_batch // world_size, 1)
    if global_batch % (world_size * micro_batch):
        from_step = max(first for first, _ in sizes.changes if first <= step)
        name = f"the phase's global_batch from step {from_step} on," if from_step else "train.global_batch"
        raise AdhmrError(
            f"{name} {global_batch} is not a multiple of {world_size} processes x micro_batch {micro_batch} = "
            f"{world_size * micro_batch}: change one of them"
        )
    return micro_batch, global_batch // (world_size * micro_batch)


class StepBatches:
    """The micro-batches of one rank, as lists of stream indices, from start_step to stop_step.

    With a global batch of B = a W m samples, rank r of W takes in micro-step j the m samples from (j W + r) m on.
    """

    def __init__(
        self, sizes: BatchSizes, micro_batch: int | None, rank: int, world_size: int, start_step: int, stop_step: int
    ) -> None:
        self.sizes, self.micro_batch, self.rank, self.world_size = sizes, micro_batch, rank, world_size
        self.start_step, self.stop_step = start_step, max(start_step, stop_step)
        for step in self._pieces()[:-1]:
            micro_batches(sizes, step, micro_batch, world_size)

    def __len__(self) -> int:
        pieces = self._pieces()
        return sum((stop - start) * self._cut(start)[1] for start, stop in pairwise(pieces))

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start_step, self.stop_step):
            size, count = self._cut(step)
            for micro_step in range(count):
                first = self.sizes.first_index(step) + (micro_step * self.world_size + self.rank) * size
                yield list(range(first, first + size))

    def _cut(self, step: int) -> tuple[int, int]:
        return micro_batches(self.sizes, step, self.micro_batch, self.world_size)

    def _pieces(self) -> list[int]:
        """start_step, the steps between where the batch changes, stop_step."""
        inside = [step for step, _ in self.sizes.changes if self.start_step < step < self.stop_step]
        return [self.start_step, *inside, self.stop_step]
