"""Means of losses, times and memory over the steps between two log lines. Where they are written: `tracking.py`."""

import resource
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from adhmr.training.distributed import Distribution


class IntervalMeter:
    """Sums stay on the device, in float64, until a log line is due: no synchronisation of its own."""

    def __init__(self, distribution: Distribution):
        self._distribution = distribution
        self._names: list[str] = []
        self.clear()

    def clear(self) -> None:
        self._sums: Tensor | None = None  # (len(names),)
        self._counted = 0  # steps in the sums; skipped steps are not
        self._steps = 0
        self._samples = 0
        self._seconds = 0.0
        self._waited = 0.0
        self._alone = 0.0

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Adds the scalars of one step."""
        if self._sums is not None and list(values) != self._names:
            raise ValueError(f"a task must log the same parts in every step: {self._names} before, {list(values)} now")
        self._names = list(values)
        stacked = torch.stack([value.detach().double().reshape(()) for value in values.values()])
        self._sums = stacked if self._sums is None else self._sums + stacked
        self._counted += 1

    def add_time(self, samples: int, seconds: float, waited: float, alone: float | None = None) -> None:
        """Adds one step's samples over all ranks, its duration and the part of it spent waiting for data.

        alone: the part before this rank first waited for another; None: the wait for data. It tells slow ranks from
        quick ones, which the whole step does not: the quick wait for the slow within it.
        """
        self._steps += 1
        self._samples += samples
        self._seconds += seconds
        self._waited += waited
        self._alone += waited if alone is None else alone

    def figures(self) -> dict[str, float]:
        """Means over the interval and over ranks (all ranks must call), then starts a new interval."""
        figures: dict[str, float] = {}
        if self._sums is not None:
            means = self._distribution.sum(self._sums) / (self._counted * self._distribution.world_size)
            figures.update(zip(self._names, means.tolist()))
        if self._steps:
            figures["samples_per_s"] = self._samples / self._seconds
            figures["step_time"] = self._seconds / self._steps  # s
            figures["data_wait"] = self._waited / self._seconds  # share of the step time
        own = (self._seconds, self._waited, self._alone, _peak_memory_bytes(self._distribution.device))
        seconds, waited, alone, memory = zip(*self._distribution.gather(own))  # of each rank
        if self._steps and len(seconds) > 1:
            figures["step_time_max"] = max(seconds) / self._steps
            figures["data_wait_max"] = max(wait / whole for wait, whole in zip(waited, seconds))
            figures["slowest_rank"] = alone.index(max(alone))
            figures["slowest_rank_lag"] = (max(alone) - min(alone)) / self._steps  # s a step
        figures["peak_memory_gib"] = max(memory) / 2**30
        self.clear()
        return figures

    def state(self) -> dict[str, Any]:
        """The unfinished interval of every rank, so that the next log line is the same after a restart."""
        sums = [] if self._sums is None else self._sums.tolist()
        return {"names": self._names, "counted": self._counted, "sums": self._distribution.gather(sums)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.clear()
        ranks = state["sums"]
        if state["counted"] == 0:
            return
        self._names, self._counted = state["names"], state["counted"]
        sums = torch.tensor(ranks, dtype=torch.float64)  # (saved ranks, len(names))
        # On another world size each rank takes the mean; the mean over ranks is the same.
        own = sums[self._distribution.rank] if len(ranks) == self._distribution.world_size else sums.mean(0)
        self._sums = own.to(self._distribution.device)


def _peak_memory_bytes(device: torch.device) -> int:
    """Of this rank since the last call on a GPU; resident memory since the process began on a CPU."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
