"""Activation checkpointing: a block keeps its inputs alone and computes the rest again in the backward pass.

Which blocks is said by the tasks (`Task.checkpointed_blocks`), when by the trainer.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def checkpoint_activations(blocks: Iterable[nn.Module]) -> None:
    """Makes each block forget its activations until its backward pass. Outputs, gradients and names in the state stay.

    Dropout draws the same numbers again, under the same autocast; running statistics of batch norm move once. Copy a
    model before, not after: the new forward is an attribute of the very block.
    """
    for block in blocks:
        norms = [part for part in block.modules() if isinstance(part, _BatchNorm)]
        block.forward = partial(_forward, block.forward, norms)


def _forward(forward: Callable[..., Any], norms: list[_BatchNorm], *inputs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs)

    def run(*inputs: Any) -> Any:
        # HRNet's modules write into the list that they get: the second pass must find the first one's.
        return forward(*(list(value) if isinstance(value, list) else value for value in inputs))

    if norms and not torch.compiler.is_compiling():  # compiled code updates statistics apart from what it recomputes
        return checkpoint(run, *inputs, use_reentrant=False, context_fn=partial(_contexts, norms))
    return checkpoint(run, *inputs, use_reentrant=False)


def _contexts(norms: list[_BatchNorm]) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Of the first pass and of the second."""
    return nullcontext(), _still_statistics(norms)


@contextmanager
def _still_statistics(norms: list[_BatchNorm]) -> Iterator[None]:
    """Batch norm normalises by the batch as before, but its running statistics neither move nor are counted.

    By a momentum of 0, not by track_running_stats: the second pass must save the same tensors as the first.
    """
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None
        yield
    finally:
        for norm, momentum, count in kept:
            norm.momentum, norm.num_batches_tracked = momentum, count
