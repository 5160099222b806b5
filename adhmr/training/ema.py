"""Exponential moving average of a model's weights in fp32. When it is saved and used: `trainer.py`."""

import copy

import torch
from torch import Tensor, nn


class WeightAverage:
    """`module` is a frozen fp32 copy of the model, in eval mode, that follows it with `update`.

    Decay of the n-th update: min(decay, (1 + n) / (10 + n)), so that the first weights are forgotten quickly. An
    average that goes on from `former` (the state of another run's average) keeps the full decay from the first update.
    """

    def __init__(self, model: nn.Module, decay: float, former: dict[str, Tensor] | None = None):
        self.decay, self.goes_on = decay, former is not None
        self.module = copy.deepcopy(model).float().eval().requires_grad_(False)
        if former is not None:
            self.module.load_state_dict(former)
        # Constant buffers may hold -inf (attention masks), where averaging gives NaN; those are copied, like integers.
        state = self.module.state_dict()
        self._averaged = {name for name, v in state.items() if v.is_floating_point() and v.isfinite().all()}

    @torch.no_grad()
    def update(self, model: nn.Module, updates: int) -> None:
        """Moves towards `model`; `updates` counts the updates made before this one."""
        weight = 1 - (self.decay if self.goes_on else min(self.decay, (1 + updates) / (10 + updates)))
        averages, values = [], []
        current = model.state_dict()
        for name, average in self.module.state_dict().items():
            if name in self._averaged:
                averages.append(average)
                values.append(current[name].float())
            else:
                average.copy_(current[name])
        torch._foreach_lerp_(averages, values, weight)
