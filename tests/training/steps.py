"""A batch of a task from a folder, some steps on it, and what they changed: what the tests of all tasks do."""

from pathlib import Path

import torch

from adhmr.data.randomness import RandomKey
from adhmr.data.shard_reader import ShardReader
from adhmr.data.stream import collate
from adhmr.training.task import Task
from adhmr.training.tasks.pairs import shown


def batch_of(task, folder: Path, count: int = 4, seed: int = 0) -> dict:
    reader, transform = ShardReader(folder), task.transform()
    items = [{**transform(reader.read(row), RandomKey(seed, row)), "position": row} for row in range(count)]
    return collate(items)


def train(task, batch: dict, steps: int, lr: float = 1e-3) -> list[float]:
    groups = [{"params": group["params"]} for group in task.parameter_groups()]
    optimizer = torch.optim.AdamW(groups, lr=lr)
    task.prepare(torch.device("cpu"))
    losses = []
    for _ in range(steps):
        task.model.train()  # as the trainer does
        loss, _ = task.loss(task.model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def snapshot(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(module: torch.nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}


def perturbed(task: Task, seed: int | None = None) -> Task:
    """The task with its trained weights changed a little; with a seed always in the same way."""
    if seed is not None:
        torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in task.model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return task


def noised(task, batch: dict) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What an alignment's networks see of a batch: x_t, t and the noise in it."""
    x0, noise, t = shown(batch)
    return task.schedule.q_sample(x0, t, noise), t, noise
