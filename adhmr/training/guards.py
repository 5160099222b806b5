"""Steps with a non-finite loss or gradient: skipped on all ranks, counted, bounded, their samples written down."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adhmr.atomic_file import write_atomically
from adhmr.errors import AdhmrError
from adhmr.training.distributed import Distribution
from adhmr.training.run_state import RunState
from adhmr.training.task import Batch

MAX_RECORDS = 100  # newest skipped steps kept in nonfinite.json


class NonFiniteGuard:
    """run_dir/nonfinite.json lists the skipped steps with the samples of every rank.

    Running statistics of normalisation layers are updated in the forward pass, before a bad loss is seen: they are
    noted before each step and put back when it is skipped.
    """

    def __init__(self, model: nn.Module, distribution: Distribution, run_dir: Path, max_in_a_row: int):
        self._distribution = distribution
        self._path = run_dir / "nonfinite.json"
        self._max_in_a_row = max_in_a_row
        self._statistics = [
            buffer for name, buffer in model.named_buffers() if name.split(".")[-1].startswith("running_")
        ]
        self._noted: list[Tensor] = []

    def note_statistics(self) -> None:
        self._noted = [buffer.clone() for buffer in self._statistics]

    @torch.no_grad()
    def skip(self, state: RunState, loss: float, grad_norm: float, batches: Sequence[Batch]) -> None:
        """Notes and counts a skipped step. All ranks call it. Raises AdhmrError after too many in a row."""
        for buffer, noted in zip(self._statistics, self._noted):
            buffer.copy_(noted)
        state.skipped += 1
        state.skipped_in_a_row += 1
        ranks = self._distribution.gather(
            {
                "rank": self._distribution.rank,
                "loss": str(loss),  # JSON has no nan
                "grad_norm": str(grad_norm),
                "positions": [value for batch in batches for value in _listed(batch.get("position", []))],
                "keys": [value for batch in batches for value in _listed(batch.get("key", []))],
            }
        )
        if self._distribution.is_main:
            records = json.loads(self._path.read_text()) if self._path.exists() else []
            records = [record for record in records if record["step"] < state.step]  # others come again
            records = [*records, {"step": state.step, "ranks": ranks}][-MAX_RECORDS:]
            write_atomically(self._path, json.dumps(records, indent=1))
        if state.skipped_in_a_row > self._max_in_a_row:
            raise AdhmrError(
                f"loss or gradient not finite in {state.skipped_in_a_row} steps in a row up to step {state.step}; the "
                f"samples are in {self._path}; look at them, lower optim.lr, or use train.precision=fp32"
            )


def _listed(values: Any) -> list[Any]:
    return values.tolist() if isinstance(values, Tensor) else list(values)
