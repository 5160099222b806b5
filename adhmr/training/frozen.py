"""A frozen network inside a trained one, taken out of what is wrapped, averaged and saved, yet called as before.

Only the registration changes. Which networks are frozen is said by the tasks.
"""

import copy

from torch import nn


def leave_out(parent: nn.Module, name: str) -> None:
    """Freezes the child `name` of `parent` and takes it out of its parameters, state, moves and mode switches.

    `parent.NAME` still calls it, always in eval mode. As none of its weights wants a gradient, autograd keeps nothing
    of its pass. The caller moves it to the device.
    """
    child = getattr(parent, name).requires_grad_(False).eval()
    parent._modules[name] = None  # keeps its place; torch passes over a child that is None
    parent.__dict__[name] = child


def left_out(parent: nn.Module) -> dict[str, nn.Module]:
    """The children of `parent` that were taken out, by name."""
    names = [name for name, child in parent._modules.items() if child is None and name in parent.__dict__]
    return {name: parent.__dict__[name] for name in names}


def copied(module: nn.Module) -> nn.Module:
    """A deep copy of `module` that shares what was left out of it or of its parts: it never changes."""
    shared = [child for part in module.modules() for child in left_out(part).values()]
    return copy.deepcopy(module, {id(child): child for child in shared})


def whole(parent: nn.Module) -> nn.Module:
    """`parent` with the left-out children registered again, in their places: what is exported. `parent` stays as it is;
    the two have the same parameters."""
    complete = copy.copy(parent)
    children = left_out(parent)
    complete._modules = {**parent._modules, **children}
    for name in children:
        del complete.__dict__[name]
    return complete
