"""A left-out network: called as before, but no part of what is trained, averaged, moved, saved; back in the export."""

import copy
import pickle

import pytest
import torch
from torch import nn

from adhmr.models.weights import load_weights
from adhmr.training.frozen import copied, leave_out, leave_out_weights, left_out, left_out_weights, whole
from adhmr.training.run import run_stage
from adhmr.training.tasks.base import BaseTask
from adhmr.training.tasks.scorer import ScorerTask
from tests.training.steps import batch_of, snapshot, train


class Pair(nn.Module):
    """A normalising front and a head behind it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.front = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.front(x))


@pytest.fixture
def pair() -> Pair:
    pair = Pair()
    leave_out(pair, "front")
    return pair


def test_a_left_out_network_is_called_but_is_no_part_of_its_parent(pair):
    front, x = pair.front, torch.randn(3, 4)
    torch.testing.assert_close(pair(x), Pair().eval()(x))
    assert {name for name, _ in pair.named_parameters()} == {"head.weight", "head.bias"} == set(pair.state_dict())
    assert list(left_out(pair)) == ["front"] and list(pair.children()) == [pair.head]
    pair.train().double()
    assert not any(part.training for part in front.modules()) and front[0].weight.dtype == torch.float32
    assert not front(x).requires_grad


def test_a_child_that_is_none_is_not_taken_for_a_left_out_one(pair):
    pair.register_module("absent", None)
    assert list(left_out(pair)) == ["front"] and "absent" not in whole(pair).state_dict()


def test_a_copy_shares_what_was_left_out_wherever_it_is(pair):
    outer = nn.Sequential(nn.Linear(4, 4), pair)
    other = copied(outer)
    assert other[1].front is pair.front and other[1].head is not pair.head
    assert torch.equal(other[1].head.weight, pair.head.weight)
    assert copy.deepcopy(outer)[1].front is not pair.front


def test_the_whole_has_all_in_the_old_order_and_leaves_the_trained_module_alone(pair):
    complete = whole(pair)
    assert list(complete.state_dict()) == list(Pair().state_dict())
    assert all(torch.equal(tensor, complete.state_dict()[name]) for name, tensor in Pair().state_dict().items())
    assert complete.head is pair.head and list(pair.state_dict()) == ["head.weight", "head.bias"]
    assert list(pickle.loads(pickle.dumps(complete)).state_dict()) == list(complete.state_dict())


def test_left_out_weights_are_used_but_are_no_part_of_the_network():
    partly, x = Pair().eval(), torch.randn(3, 4)
    partly.front.requires_grad_(False)
    weight = partly.front[0].weight
    leave_out_weights(partly)
    torch.testing.assert_close(partly(x), Pair().eval()(x))
    assert {name for name, _ in partly.named_parameters()} == {"head.weight", "head.bias"}
    names = {"front.0.weight", "front.0.bias", "front.1.weight", "front.1.bias"}
    assert set(left_out_weights(partly)) == names and not names & set(partly.state_dict())
    partly.train().double()
    assert partly.front[2].training and weight.dtype == torch.float32  # dropout goes on, weights stay
    other = copied(partly)
    assert other.front[0].weight is weight and other.head.weight is not partly.head.weight


def test_the_whole_of_a_module_with_nothing_left_out_is_the_same(pair):
    plain = Pair()
    assert list(whole(plain).state_dict()) == list(plain.state_dict())


def as_before(task):
    """The task with its encoder frozen inside the trained module."""
    encoder = task.model.encoder
    task.model.encoder = encoder
    assert "encoder" not in task.model.__dict__
    task.model.train = lambda mode=True: nn.Module.train(task.model, mode) and encoder.eval()
    return task


@pytest.mark.parametrize("stage", ["base", "scorer"])
def test_losses_and_exports_are_those_of_an_encoder_frozen_inside(stage, base_config, scorer_config, studio_set):
    results = []
    for change in (lambda task: task, as_before):
        if stage == "base":
            task = change(BaseTask(base_config(freeze_encoder=True)))
        else:
            task = change(ScorerTask(scorer_config(freeze_encoder=True)))
        losses = train(task, batch_of(task, studio_set), 3)
        results.append((losses, snapshot(task.exported(task.model))))
    (losses, state), (losses_inside, state_inside) = results
    assert losses == losses_inside and list(state) == list(state_inside)
    assert all(torch.equal(tensor, state_inside[name]) for name, tensor in state.items())


def test_features_of_a_frozen_encoder_keep_no_activations(base_config, studio_set):
    task = BaseTask(base_config(freeze_encoder=True))
    assert not any(name.startswith("encoder.") for name in task.model.state_dict())
    task.model.train()
    memory = task.model.encoder(batch_of(task, studio_set)["image"]).memory
    assert memory.grad_fn is None and not task.model.encoder.training


def test_a_run_with_a_frozen_encoder_exports_it_as_it_came(scorer_config, tiny_weights):
    config = scorer_config(freeze_encoder=True)
    config.output.mkdir()
    run_stage(config)
    shipped, _ = load_weights(tiny_weights / "encoder.safetensors")
    for name in ("model", "model_raw"):
        exported, _ = load_weights(config.output / f"{name}.safetensors")
        assert all(torch.equal(tensor.float(), exported[f"encoder.{key}"].float()) for key, tensor in shipped.items())
    saved = config.output / "checkpoints" / "step-00000002" / "model.safetensors"
    assert saved.stat().st_size < (config.output / "model.safetensors").stat().st_size
