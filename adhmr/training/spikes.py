"""When the loss has left its usual range. What the run does then, going back, is in trainer.py.

The usual range is that of the latest steps: their median, and the median absolute deviation from it, which a few odd
losses do not move.
"""

import math
from collections.abc import Sequence
from statistics import median

from adhmr.config.training import SpikeConfig

SMALLEST = 0.01  # deviation as a share of the median: a loss that hardly varies may still wander
GAUSSIAN = 1.4826  # times the median absolute deviation: the standard deviation, were the losses normal


class SpikeDetector:
    """Sees the loss of every step, the same on all ranks, so that all decide alike."""

    def __init__(self, config: SpikeConfig):
        self.config = config
        self._usual: list[float] = []  # losses of the latest steps that were not above the range, oldest first
        self._above = 0  # steps in a row above it

    def see(self, loss: float) -> int:
        """How many steps the spike has that this loss completes; 0 when it completes none. NaN belongs to the guard of
        non-finite steps and is passed over."""
        if math.isnan(loss):
            return 0
        if len(self._usual) >= self.config.window // 2 and loss > self.limit():
            self._above += 1
            return self._above if self._above >= self.config.patience else 0
        self._above = 0
        self._usual = [*self._usual[-self.config.window + 1 :], loss]
        return 0

    def limit(self) -> float:
        """The loss above which a step is out of the usual range."""
        middle = median(self._usual)
        deviation = GAUSSIAN * median(abs(loss - middle) for loss in self._usual)
        return middle + self.config.threshold * max(deviation, SMALLEST * abs(middle))

    def state(self) -> dict[str, Sequence[float] | int]:
        return {"usual": list(self._usual), "above": self._above}

    def load_state(self, state: dict | None) -> None:
        """Of a run that did not watch for spikes: None."""
        self._usual, self._above = (list(state["usual"]), state["above"]) if state else ([], 0)
