"""The numbers of a run that its checkpoints carry beside the tensors, and how they are kept as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass
class RunState:
    """Where a run is. All but `rewinds` go back with the weights when the run does."""

    step: int = 0  # optimizer steps made, skipped ones included
    updates: int = 0  # of the weights: without the skipped steps
    productive: float = 0.0  # seconds of the steps that led to these weights, over all processes that made some
    elapsed: float = 0.0  # seconds of those processes, all they did included
    skipped: int = 0
    skipped_in_a_row: int = 0
    rewinds: int = 0
    evaluation: dict[str, float] = field(default_factory=dict)  # the last one
    evaluated_step: int | None = None
    best: float | None = None  # of train.best_metric

    def record(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "RunState":
        return cls(**{item.name: record[item.name] for item in fields(cls)})
