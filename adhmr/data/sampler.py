"""The order of training samples as a pure function: position -> (data set, epoch, row).

Nothing but the plan enters: no rank, worker, prefetching or history. Reading samples and batching are in stream.py.
"""

import copy
import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from adhmr.data.randomness import permutation_for, philox_for
from adhmr.errors import AdhmrError

PLAN_VERSION = 1
CHECKED_POSITIONS = 100
SUBSTITUTES = 8


@dataclass(frozen=True, slots=True)
class PlanSet:
    """One data set of a plan: rows of each shard, its share of the first mixture (0: none), the fingerprint of its
    index, and what else its samples depend on."""

    name: str
    shard_counts: tuple[int, ...]
    weight: float = 1.0
    fingerprint: str = ""
    settings: Mapping = field(default_factory=dict)

    @property
    def source(self) -> dict:
        """Its fingerprint and settings: with the seed, all that its samples are made from. JSON types."""
        return {"fingerprint": self.fingerprint, **self.settings}


@dataclass(frozen=True)
class Phase:
    """The mixture from position `start` on, where step `from_step` begins.

    bases: how often each set was drawn before it; sources: what the samples of each set are made from.
    """

    start: int
    from_step: int
    weights: dict[str, float]
    bases: dict[str, int]
    sources: dict[str, dict]


class SetOrder:
    """The order of one data set's rows, epoch after epoch, each row exactly once an epoch.

    Rows are cut into blocks of consecutive rows of one shard; blocks are permuted, and rows are permuted within
    windows of consecutive permuted blocks, so that reads stay local to a few shards.
    """

    def __init__(self, name: str, shard_counts: Sequence[int], seed: int, block: int, window: int) -> None:
        self.arguments = (name, tuple(shard_counts), seed, block, window)
        self.name, self.seed, self.window = name, seed, window
        counts = np.asarray(shard_counts, np.int64)  # (shards,)
        self.num_rows = int(counts.sum())
        blocks = -(-counts // block)  # (shards,)
        shard = np.repeat(np.arange(len(counts)), blocks)  # (blocks,)
        within = block * (
            np.arange(len(shard)) - np.repeat(np.cumsum(blocks) - blocks, blocks)
        )  # rows before, in shard
        self.first = (np.cumsum(counts) - counts)[shard] + within  # (blocks,) first row of each block
        self.length = np.minimum(block, counts[shard] - within)  # (blocks,)
        # A few epochs' block orders and some windows of rows are kept: neighbouring positions share them.
        self._epoch = lru_cache(maxsize=4)(self._make_epoch)
        self._window = lru_cache(maxsize=64)(self._make_window)

    def __reduce__(self) -> tuple:
        return SetOrder, self.arguments  # the caches stay behind

    def at(self, draw: int) -> tuple[int, int]:
        """(epoch, row) of the draw-th sample taken from this set."""
        epoch, place = divmod(draw, self.num_rows)
        _, starts = self._epoch(epoch)
        window = bisect_right(starts, place) - 1
        return epoch, int(self._window(epoch, window)[place - starts[window]])

    def _make_epoch(self, epoch: int) -> tuple[np.ndarray, list[int]]:
        order = permutation_for(len(self.first), self.seed, self.name, "blocks", epoch)  # (blocks,)
        sizes = np.add.reduceat(self.length[order], np.arange(0, len(order), self.window))  # (windows,)
        return order, (np.cumsum(sizes) - sizes).tolist()

    def _make_window(self, epoch: int, window: int) -> np.ndarray:
        order, _ = self._epoch(epoch)
        blocks = order[window * self.window : (window + 1) * self.window]
        rows = np.concatenate([np.arange(self.first[b], self.first[b] + self.length[b]) for b in blocks])
        return rows[permutation_for(len(rows), self.seed, self.name, "window", epoch, window)]


class Plan:
    """Which sample comes at which position, for ever.

    Args:
        sets: the data sets; their weights make the first phase. The order of the list does not matter: names do.
            A set of weight 0 waits for a phase that names it.
        seed: of every permutation.
        period: every `period` positions hold exactly the same number of samples of each set.
        block, window: rows in a block and blocks in a window, see SetOrder.
        phases: the mixture's history; taken from the weights of `sets` when empty.
        skip_ranges: half-open ranges of positions that the stream jumps over.

    Raises AdhmrError for repeated names, empty sets, and weights too small for one sample a period.
    """

    def __init__(
        self,
        sets: Sequence[PlanSet],
        seed: int,
        period: int = 4096,
        block: int = 64,
        window: int = 64,
        phases: Sequence[Phase] = (),
        skip_ranges: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.sets, self.seed, self.period, self.block, self.window = tuple(sets), seed, period, block, window
        self._number = {plan_set.name: number for number, plan_set in enumerate(self.sets)}
        if len(self._number) != len(self.sets):
            names = [plan_set.name for plan_set in self.sets]
            raise AdhmrError(f"data sets {names}: names must differ; give one of them `name:` in the configuration")
        for plan_set in self.sets:
            if sum(plan_set.shard_counts) == 0:
                raise AdhmrError(f"data set {plan_set.name} has no samples")
        weights = {plan_set.name: plan_set.weight for plan_set in self.sets if plan_set.weight != 0}
        self._orders = [SetOrder(item.name, item.shard_counts, seed, block, window) for item in self.sets]
        first = Phase(0, 0, weights, dict.fromkeys(weights, 0), self._sources(weights))
        self._set_history(tuple(phases) or (first,), skip_ranges)

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_mix"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._mix = lru_cache(maxsize=8)(self._make_mix)

    def position_of(self, index: int) -> int:
        """The position of the index-th sample of the stream: the same number, moved past the skipped ranges."""
        for first, stop in self.skip_ranges:
            if index < first:
                break
            index += stop - first
        return index

    def sample_at(self, position: int) -> tuple[int, int, int]:
        """(number of the set in `sets`, epoch of that set, row) at a position."""
        name, draw = self._draw_at(position)
        number = self._number[name]
        return number, *self._orders[number].at(draw)

    def substitutes_at(self, position: int) -> list[int]:
        """Rows of the same set that take the place of a sample that cannot be read, in this order."""
        rows = self._orders[self._number[self._draw_at(position)[0]]].num_rows
        return [int(draw % rows) for draw in philox_for(self.seed, "substitute", position).random_raw(SUBSTITUTES)]

    def phase_at(self, position: int) -> Phase:
        """The mixture that a position belongs to."""
        return self.phases[self._phase_number(position)]

    def switched(self, position: int, weights: Mapping[str, float], from_step: int = 0) -> "Plan":
        """The same plan, with other weights from `position` on; what was drawn before is not drawn again in its epoch.

        Sets without a weight are no longer drawn; a set whose data have changed since they were drawn begins anew.
        Raises AdhmrError for names that are not among `sets`, and when `position` comes before the last phase.
        """
        unknown = sorted(set(weights) - set(self._number))
        if unknown:
            raise AdhmrError(f"no data set is called {unknown[0]}; the plan has {sorted(self._number)}")
        last = self.phases[-1]
        if position < last.start:
            raise AdhmrError(f"the mixture cannot change at position {position}: it changed at {last.start} already")
        bases = {name: 0 for name in weights} | last.bases | self._drawn_before(position)
        former = {name: source for phase in self.phases for name, source in phase.sources.items()}  # the newest win
        sources = self._sources(weights)
        for name, source in sources.items():
            if former.get(name, source)["fingerprint"] != source["fingerprint"]:
                bases[name] = 0
        return self.altered(phases=(*self.phases, Phase(position, from_step, dict(weights), bases, sources)))

    def altered(
        self, *, phases: Sequence[Phase] | None = None, skip_ranges: Sequence[tuple[int, int]] | None = None
    ) -> "Plan":
        """The same plan with another history."""
        plan = copy.copy(self)
        plan._set_history(
            self.phases if phases is None else phases, self.skip_ranges if skip_ranges is None else skip_ranges
        )
        return plan

    def checksum(self) -> str:
        """SHA-256 over set names, epochs and rows of the first 100 positions of the last phase."""
        start = self.phases[-1].start
        digest = hashlib.sha256()
        for position in range(start, start + CHECKED_POSITIONS):
            number, epoch, row = self.sample_at(position)
            digest.update(f"{self.sets[number].name},{epoch},{row};".encode())
        return digest.hexdigest()

    def _set_history(self, phases: Sequence[Phase], skip_ranges: Sequence[tuple[int, int]]) -> None:
        self.phases, self.skip_ranges = tuple(phases), merged(skip_ranges)
        self._starts = [phase.start for phase in self.phases]
        self._quotas = [largest_remainder(phase.weights, self.period) for phase in self.phases]
        self._mix = lru_cache(maxsize=8)(self._make_mix)

    def _sources(self, names: Mapping[str, float]) -> dict[str, dict]:
        return {name: self.sets[self._number[name]].source for name in names}

    def _phase_number(self, position: int) -> int:
        if position < 0:
            raise IndexError(f"position {position}")
        return bisect_right(self._starts, position) - 1

    def _draw_at(self, position: int) -> tuple[str, int]:
        """The set at a position and how often that set was drawn before."""
        number = self._phase_number(position)
        phase, (names, quotas) = self.phases[number], self._quotas[number]
        mix_block, slot = divmod(position - phase.start, self.period)
        labels, ordinals = self._mix(number, mix_block)
        label = labels[slot]
        return names[label], phase.bases[names[label]] + mix_block * quotas[label] + ordinals[slot]

    def _drawn_before(self, position: int) -> dict[str, int]:
        phase, (names, quotas) = self.phases[-1], self._quotas[-1]
        blocks, slots = divmod(position - phase.start, self.period)
        labels, _ = self._mix(len(self.phases) - 1, blocks)
        inside = np.bincount(labels[:slots], minlength=len(names))
        return {
            name: phase.bases[name] + blocks * quota + int(count)
            for name, quota, count in zip(names, quotas, inside, strict=True)
        }

    def _make_mix(self, number: int, mix_block: int) -> tuple[list[int], list[int]]:
        """Labels of one period's slots and, for each slot, the earlier slots with its label; (period,) each."""
        _, quotas = self._quotas[number]
        slots = np.repeat(np.arange(len(quotas)), quotas)
        labels = slots[permutation_for(self.period, self.seed, "mix", self.phases[number].start, mix_block)]
        ordinals = np.empty(self.period, np.int64)
        for label, quota in enumerate(quotas):
            ordinals[labels == label] = np.arange(quota)
        return labels.tolist(), ordinals.tolist()  # single elements of lists are read faster than those of arrays


def largest_remainder(weights: Mapping[str, float], period: int) -> tuple[list[str], list[int]]:
    """Names in alphabetical order and how many of `period` slots each gets, by the largest-remainder method.

    Raises AdhmrError when a weight is not positive or too small for one slot.
    """
    if not weights:
        raise AdhmrError("no data set has a weight: nothing would be drawn")
    names = sorted(weights)
    shares = np.asarray([weights[name] for name in names], np.float64)
    if not (np.isfinite(shares).all() and (shares > 0).all()):
        raise AdhmrError(f"data set weights {dict(weights)}: every weight must be a positive number")
    shares = shares / shares.sum() * period
    quotas = np.floor(shares).astype(np.int64)
    largest_first = np.argsort(-(shares - quotas), kind="stable")
    quotas[largest_first[: period - quotas.sum()]] += 1
    if quotas.min() == 0:
        name = names[int(quotas.argmin())]
        raise AdhmrError(
            f"data set {name} with weight {weights[name]} gets none of the {period} samples of a period: "
            "raise its weight or `period`"
        )
    return names, quotas.tolist()


def merged(ranges: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Half-open ranges in rising order, those that touch joined; raises AdhmrError for empty or negative ones."""
    joined: list[tuple[int, int]] = []
    for first, stop in sorted(tuple(pair) for pair in ranges):
        if not 0 <= first < stop:
            raise AdhmrError(f"skip range [{first}, {stop}): expected 0 <= first < stop, in positions")
        if joined and first <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((first, stop))
    return tuple(joined)
