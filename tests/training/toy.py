"""A toy task, its stream and a trainer of it, for the tests of training in one and in several processes."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from adhmr.config.training import DistributedConfig, OptimConfig, ProfileConfig, TrackingConfig, TrainConfig
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


def samples(positions: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Inputs and targets as a pure function of the positions."""
    x = torch.stack([torch.randn(FEATURES, generator=torch.Generator().manual_seed(p)) for p in positions])
    return x, x[:, 0] - 2 * x[:, 1] + x[:, 2].abs()


class ToyData:
    """Steps cover positions one after the other; ranks take neighbouring slices.

    poison: positions of NaN; wild: positions of huge targets. Its state is its batches and what was left out, and a run
    goes on with the batches that its past had.
    """

    def __init__(
        self,
        train: TrainConfig,
        changes: tuple[tuple[int, int], ...] = (),
        sleep: float = 0.0,
        poison: tuple[int, ...] = (),
        wild: tuple[int, ...] = (),
        signal_at: int | None = None,
        hang_at: int | None = None,
        fail_at: int | None = None,
    ):
        self.train, self.sleep, self.poison, self.wild = train, sleep, poison, wild
        self.signal_at, self.hang_at, self.fail_at = signal_at, hang_at, fail_at
        self.left_out: list[list[int]] = []  # ranges of positions
        self.sizes = BatchSizes([(0, train.global_batch), *changes])

    def description(self) -> dict:
        return {"batches": self.sizes.changes}

    def state_dict(self, step: int) -> dict:
        return {"batches": [list(pair) for pair in self.sizes.changes if pair[0] < step], "left_out": self.left_out}

    def resume(self, state: dict) -> None:
        assert state["batches"] == [list(pair) for pair in self.sizes.changes][: len(state["batches"])]
        self.left_out = state["left_out"]

    def leave_out(self, first_step: int, stop_step: int, step: int) -> None:
        assert step <= first_step
        first, stop = (self.position(self.sizes.first_index(s)) for s in (first_step, stop_step))
        self.left_out = [*self.left_out, [first, stop]]

    def position(self, index: int) -> int:
        """Of the index-th sample that is drawn."""
        for first, stop in self.left_out:  # in ascending order here
            if index >= first:
                index += stop - first
        return index

    def stream(self, start_step: int, rank: int, world_size: int):
        for step in range(start_step, 10**9):
            if step == self.signal_at and rank == world_size - 1:
                os.kill(os.getpid(), signal.SIGTERM)
            if step == self.hang_at and rank == world_size - 1:
                time.sleep(3600)
            if step == self.fail_at:
                raise RuntimeError(f"broken at step {step}")
            micro, parts = micro_batches(self.sizes, step, self.train.micro_batch, world_size)
            for part in range(parts):
                first = self.sizes.first_index(step) + (rank * parts + part) * micro
                positions = torch.tensor([self.position(index) for index in range(first, first + micro)])
                x, y = samples(positions.tolist())
                x[torch.isin(positions, torch.tensor(self.poison, dtype=torch.long))] = float("nan")
                y[torch.isin(positions, torch.tensor(self.wild, dtype=torch.long))] *= 1000
                time.sleep(self.sleep)
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
        tuple(settings.get("wild", ())),
        settings.get("signal_at"),
        settings.get("hang_at"),
        settings.get("fail_at"),
    )
    data.left_out = [list(pair) for pair in settings.get("left_out", ())]
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
        profile=ProfileConfig(**settings["profile"]) if "profile" in settings else None,
    )
