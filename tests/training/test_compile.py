"""Trained networks under torch.compile: one graph, compiled once, the same training. Kernels: test_precision.py."""

import copy

import pytest
import torch
from torch._dynamo.utils import counters

from adhmr.training.activation_checkpointing import checkpoint_activations
from adhmr.training.tasks.base import BaseTask
from adhmr.training.tasks.dpo import DpoTask
from adhmr.training.tasks.scorer import ScorerTask
from tests.training.steps import batch_of, train

pytestmark = pytest.mark.slow


def compare(task, folder, checkpointed: bool, tolerance: float) -> None:
    """Trains a step, then three more, in place and compiled: one whole graph, equal losses and names."""
    batch, other = batch_of(task, folder), copy.deepcopy(task)
    expected = train(task, batch, 4)
    if checkpointed:
        checkpoint_activations(other.checkpointed_blocks())
    torch._dynamo.reset()
    counters.clear()
    other.model.compile(backend="aot_eager")  # all but the kernels, which take minutes to build on a CPU
    assert train(other, batch, 4) == pytest.approx(expected, rel=tolerance)
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
    state, found = task.model.state_dict(), other.model.state_dict()
    assert list(state) == list(found)
    counts = [name for name in state if name.endswith("num_batches_tracked")]
    assert all(torch.equal(state[name], found[name]) for name in counts)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_base_with_a_training_encoder(base_config, studio_set, checkpointed):
    compare(BaseTask(base_config()), studio_set, checkpointed, 1e-3)


def test_base_with_a_frozen_encoder(base_config, studio_set):
    compare(BaseTask(base_config(freeze_encoder=True)), studio_set, True, 1e-4)


def test_scorer(scorer_config, studio_set):
    compare(ScorerTask(scorer_config(freeze_encoder=True)), studio_set, False, 1e-4)


def test_alignment(dpo_config, preferences):
    compare(DpoTask(dpo_config()), preferences / "studio-error", False, 1e-3)
