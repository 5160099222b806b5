"""An optimizer's state as one flat dict of tensors by parameter name, and back.

The names make it free of the order of the parameters, of groups and of processes. Learning rates and other settings of
the groups are no part of it: they follow from the configuration and the step.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from adhmr.errors import AdhmrError


def flatten_optimizer(optimizer: torch.optim.Optimizer, names: Mapping[nn.Parameter, str]) -> dict[str, Tensor]:
    """{"exp_avg/layer.weight": ...}: the optimizer's own tensors, not copies. `names`: of all its parameters."""
    return {
        f"{key}/{names[parameter]}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if value is not None
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[nn.Parameter, str], tensors: Mapping[str, Tensor]
) -> None:
    """Puts copies of `tensors` into the optimizer. Raises AdhmrError when some are of parameters it does not have."""
    states: dict[str, dict[str, Tensor]] = {}
    for path, value in tensors.items():
        key, _, name = path.partition("/")
        states.setdefault(name, {})[key] = value.clone()  # the optimizer changes it in place
    content = optimizer.state_dict()
    order = [
        names[parameter] for group in optimizer.param_groups for parameter in group["params"]
    ]  # as it numbers them
    content["state"] = {number: states.pop(name) for number, name in enumerate(order) if name in states}
    if states:
        raise AdhmrError(f"the checkpoint's optimizer has state of {sorted(states)[:3]}, which are not trained here")
    optimizer.load_state_dict(content)
