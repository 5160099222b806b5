"""A toy task, its stream and a trainer of it, for the tests of training in one and in several processes."""

import os
import signal
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from adhmr.config.training import DistributedConfig, OptimConfig, TrackingConfig, TrainConfig
from adhmr.data.steps import BatchSizes, micro_batches
from adhmr.training.task import Task
from adhmr.training.trainer import Trainer

FEATURES = 6


class ToyTask(Task):
    """Regression with dropout and batch norm, so that resuming exactly needs generators and buffers too."""

    kind = "toy"

    def __init__(self, width: int = 16, dropout: float = 0.2, norm: bool = True):
        torch.manual_seed(0)
        self.width = width
        layers = [nn.Linear(FEATURES, width), nn.BatchNorm1d(width) if norm else nn.Identity()]
        self.model = nn.Sequential(*layers, nn.Dropout(dropout), nn.ReLU(), nn.Linear(width, 1))
        self.prepared_on: torch.device | None = None

    def prepare(self, device: torch.device) -> None:
        self.prepared_on = device

    def loss(self, model: nn.Module, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        error = model(batch["x"]).squeeze(-1) - batch["y"]
        loss = error.square().mean()
        return loss, {"absolute": error.abs().mean()}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        assert not model.training
        torch.rand(7)  # an evaluation may draw numbers without changing the training
        x, y = samples(range(10_000, 10_064))
        return {"error": (model(x).squeeze(-1) - y).abs().mean().item()}

    def model_config(self) -> dict:
        return {"width": self.width}


def samples(positions: range) -> tuple[Tensor, Tensor]:
    """Inputs and targets as a pure function of the positions."""
    x = torch.stack([torch.randn(FEATURES, generator=torch.Generator().manual_seed(p)) for p in positions])
    return x, x[:, 0] - 2 * x[:, 1] + x[:, 2].abs()


class ToyData:
    """Steps cover positions one after the other; ranks take neighbouring slices. `poison`: positions of NaN.

    Its state is its batches, and a run goes on with the batches that its past had.
    """

    def __init__(
        self,
        train: TrainConfig,
        changes: tuple[tuple[int, int], ...] = (),
        sleep: float = 0.0,
        poison: tuple[int, ...] = (),
        signal_at: int | None = None,
    ):
        self.train, self.sleep, self.poison, self.signal_at = train, sleep, poison, signal_at
        self.sizes = BatchSizes([(0, train.global_batch), *changes])

    def description(self) -> dict:
        return {"batches": self.sizes.changes}

    def state_dict(self, step: int) -> dict:
        return {"batches": [list(pair) for pair in self.sizes.changes if pair[0] < step]}

    def resume(self, state: dict) -> None:
        assert state["batches"] == [list(pair) for pair in self.sizes.changes][: len(state["batches"])]

    def stream(self, start_step: int, rank: int, world_size: int):
        for step in range(start_step, 10**9):
            if step == self.signal_at and rank == world_size - 1:
                os.kill(os.getpid(), signal.SIGTERM)
            micro, parts = micro_batches(self.sizes, step, self.train.micro_batch, world_size)
            for part in range(parts):
                first = self.sizes.first_index(step) + (rank * parts + part) * micro
                x, y = samples(range(first, first + micro))
                for position in self.poison:
                    if first <= position < first + micro:
                        x[position - first] = float("nan")
                time.sleep(self.sleep)
                positions = torch.arange(first, first + micro)
                yield {"x": x, "y": y, "position": positions, "key": [f"toy-{p}" for p in positions.tolist()]}


def toy_trainer(run_dir: Path | str, settings: dict | None = None, task: Task | None = None) -> Trainer:
    settings = settings or {}
    defaults = {"steps": 24, "global_batch": 8, "micro_batch": 2, "ema_decay": 0.95, "log_every": 5, "save_every": 7}
    train = TrainConfig(**{**defaults, **settings.get("train", {})})
    data = ToyData(
        train,
        tuple(settings.get("changes", ())),
        settings.get("sleep", 0.0),
        tuple(settings.get("poison", ())),
        settings.get("signal_at"),
    )
    return Trainer(
        task=task or ToyTask(**settings.get("task", {})),
        data=data,
        train=train,
        optim=OptimConfig(**{"lr": 1e-2, "weight_decay": 0.01, "warmup_steps": 3, **settings.get("optim", {})}),
        tracking=TrackingConfig(**settings.get("tracking", {})),
        distributed=DistributedConfig(**settings.get("distributed", {})),
        run_dir=run_dir,
        seed=settings.get("seed", 5),
        identity={"task": "toy"},
    )
