"""Exponential moving average of a model's weights in fp32, wherever the pieces of the model lie (strategy.py)."""

from collections.abc import Mapping

import torch
from torch import Tensor


class WeightAverage:
    """Follows the weights that this rank holds, piece by piece: averaging is done element by element, so the pieces of
    all ranks make the same average as the whole.

    Decay of the n-th update: min(decay, (1 + n) / (10 + n)), so that the first weights are forgotten quickly. An
    average that goes on from another run's keeps the full decay from the first update (`goes_on`).
    """

    def __init__(self, held: Mapping[str, Tensor], decay: float, goes_on: bool = False):
        """held: name -> live tensor of this rank; may be empty."""
        self.decay, self.goes_on = decay, goes_on
        self.held = {name: _in_fp32(value) for name, value in held.items()}
        # Constant buffers may hold -inf (attention masks), where averaging gives NaN; those are copied, like integers.
        self._averaged = {name for name, v in self.held.items() if v.is_floating_point() and v.isfinite().all()}

    def load(self, held: Mapping[str, Tensor]) -> None:
        """Goes on from an average that was cut in the same way."""
        for name, average in self.held.items():
            average.copy_(held[name])

    @torch.no_grad()
    def update(self, held: Mapping[str, Tensor], updates: int) -> None:
        """Moves towards the weights; `updates` counts the updates made before this one."""
        weight = 1 - (self.decay if self.goes_on else min(self.decay, (1 + updates) / (10 + updates)))
        averages, values = [], []
        for name, average in self.held.items():
            if name in self._averaged:
                averages.append(average)
                values.append(held[name].float())
            else:
                average.copy_(held[name])
        if averages:
            torch._foreach_lerp_(averages, values, weight)


def _in_fp32(value: Tensor) -> Tensor:
    return value.detach().clone().float() if value.is_floating_point() else value.detach().clone()
