"""Frozen networks and weights inside a trained network, taken out of what is wrapped, averaged and saved, yet used as
before. Only the registration changes. Which ones are frozen is said by the tasks.
"""

import copy

import torch
from torch import nn


def leave_out(parent: nn.Module, name: str) -> None:
    """Freezes the child `name` of `parent` and takes it out of its parameters, state, moves and mode switches.

    `parent.NAME` still calls it, always in eval mode. As none of its weights wants a gradient, autograd keeps nothing
    of its pass. The caller moves it to the device.
    """
    child = getattr(parent, name).requires_grad_(False).eval()
    parent._modules[name] = None  # keeps its place; torch passes over a child that is None
    parent.__dict__[name] = child


def leave_out_weights(module: nn.Module) -> None:
    """Takes the parameters of `module` and its parts that want no gradient out of parameters, state and moves. The
    parts themselves stay: they are called, and switched between their modes, as before."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None and not weight.requires_grad:
                part._parameters[name] = None
                part.__dict__[name] = weight


def left_out(parent: nn.Module) -> dict[str, nn.Module]:
    """The children of `parent` that were taken out, by name."""
    names = [name for name, child in parent._modules.items() if child is None and name in parent.__dict__]
    return {name: parent.__dict__[name] for name in names}


def left_out_weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of `module` and its parts that were taken out, by the names that they had."""
    found = {}
    for path, part in module.named_modules():
        for name, weight in part._parameters.items():
            if weight is None and name in part.__dict__:
                found[f"{path}.{name}".removeprefix(".")] = part.__dict__[name]
    return found


def move_weights(module: nn.Module, device: torch.device) -> None:
    """Moves the parameters that were taken out of `module`, for all that share them."""
    for weight in left_out_weights(module).values():
        weight.data = weight.data.to(device)


def copied(module: nn.Module) -> nn.Module:
    """A deep copy of `module` that shares what was left out of it or of its parts: it never changes."""
    shared = [child for part in module.modules() for child in left_out(part).values()]
    shared += left_out_weights(module).values()
    return copy.deepcopy(module, {id(one): one for one in shared})


def whole(parent: nn.Module) -> nn.Module:
    """`parent` with the left-out children registered again, in their places: what is exported. `parent` stays as it is;
    the two have the same parameters."""
    complete = copy.copy(parent)
    children = left_out(parent)
    complete._modules = {**parent._modules, **children}
    for name in children:
        del complete.__dict__[name]
    return complete
