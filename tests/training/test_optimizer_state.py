"""Optimizer state by parameter name: there and back, exactly, also into another order of parameters."""

import pytest
import torch
from torch import nn

from adhmr.errors import AdhmrError
from adhmr.training.optimizer_state import flatten_optimizer, restore_optimizer

OPTIMIZERS = {
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.1, weight_decay=0.1, fused=True),
    "amsgrad": lambda groups: torch.optim.Adam(groups, lr=0.1, amsgrad=True),
    "momentum": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9),
    "plain": lambda groups: torch.optim.SGD(groups, lr=0.1),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), nn.Linear(2, 2))  # the last one is not used


def groups(model: nn.Module, turned: bool = False) -> list[dict]:
    parts = [{"params": [*model[0].parameters()]}, {"params": [*model[2].parameters(), *model[3].parameters()]}]
    return parts[::-1] if turned else parts


def named(model: nn.Module) -> dict[nn.Parameter, str]:
    return {parameter: name for name, parameter in model.named_parameters()}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model[:3](x).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("turned", [False, True])
def test_training_goes_on_as_if_never_stopped(kind, turned):
    model = network()
    optimizer = OPTIMIZERS[kind](groups(model))
    train(model, optimizer, 0, 4)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    tensors = {name: value.clone() for name, value in flatten_optimizer(optimizer, named(model)).items()}
    saved = {name: value.clone() for name, value in tensors.items()}
    train(model, optimizer, 4, 8)

    again = network()
    again.load_state_dict(weights)
    optimizer = OPTIMIZERS[kind](groups(again, turned))
    restore_optimizer(optimizer, named(again), tensors)
    train(again, optimizer, 4, 8)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(tensors[name], saved[name]) for name in saved)  # the optimizer works on copies


def test_names():
    model = network()
    optimizer = OPTIMIZERS["adamw"](groups(model))
    assert flatten_optimizer(optimizer, named(model)) == {}
    train(model, optimizer, 0, 1)
    flat = flatten_optimizer(optimizer, named(model))
    layers = ("0.weight", "0.bias", "2.weight", "2.bias")
    assert flat.keys() == {f"{key}/{layer}" for key in ("step", "exp_avg", "exp_avg_sq") for layer in layers}


def test_settings_of_the_groups_stay():
    model = network()
    optimizer = OPTIMIZERS["adamw"](groups(model))
    restore_optimizer(optimizer, named(model), {})
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1] and not optimizer.state


def test_state_of_an_unknown_parameter():
    model = network()
    optimizer = OPTIMIZERS["adamw"](groups(model))
    with pytest.raises(AdhmrError, match=r"state of \['9.weight'\], which are not trained here"):
        restore_optimizer(optimizer, named(model), {"exp_avg/9.weight": torch.ones(2)})
