"""What a dry run says about a stage: processes and batch, disk, checkpoints against the time limit.

Estimates, from the configuration and from what the run folder holds already. Nothing is written.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from pydantic import TypeAdapter

from adhmr.config.alignment import DpoStage
from adhmr.config.common import TrainingStage
from adhmr.config.loading import load_config
from adhmr.config.regressor import RegressorStage
from adhmr.config.stages import BaseStage, ScorerStage, Stage
from adhmr.data.steps import micro_batches
from adhmr.training.tracking import read_metrics
from launchers.checks import batch_sizes
from launchers.cluster import Allocation, ClusterConfig, allocation_of

CHECKPOINT_BYTES = 16  # of a parameter: weights, average, two moments, all fp32; a frozen one has none of them
FINAL_BYTES = 8  # of a parameter: model.safetensors and model_raw.safetensors


def describe(stage_file: Path, cluster: ClusterConfig, overrides: Sequence[str]) -> Iterator[str]:
    """Lines for a person, each a comment of the batch script that follows them.

    Raises AdhmrError: the configuration is wrong, or does not fit the cluster.
    """
    config = load_config(stage_file, list(overrides), TypeAdapter(Stage))
    allocation = allocation_of(config, cluster)
    yield f"# stage {config.stage} on cluster {cluster.name} ({cluster.kind}), output {config.output}"
    yield f"# {_job(allocation)}"
    if config.trains:
        yield from _batches(config, allocation)
        yield from _disk(config)
        yield from _time(config, allocation, cluster)
    folder = Path(config.output).absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    yield f"# disk: {shutil.disk_usage(there).free / 1e9:.1f} GB are free at {there}"


def _job(allocation: Allocation) -> str:
    parts = [
        f"{allocation.array} workers, each" if allocation.array else "one job:",
        f"{allocation.nodes} nodes x {allocation.tasks_per_node} processes",
        f"{allocation.gpus_per_node} GPUs a node" if allocation.gpus_per_node else "no GPUs",
        f"{allocation.cpus_per_task} CPUs a process" if allocation.cpus_per_task else "",
        f"{allocation.memory_gb:g} GB a node" if allocation.memory_gb else "",
        f"{allocation.time_minutes} minutes",
    ]
    return f"{parts[0]} {', '.join(part for part in parts[1:] if part)}"


def _batches(config: TrainingStage, allocation: Allocation) -> Iterator[str]:
    sizes = batch_sizes(config)
    for step, size in sizes.changes:
        micro, accumulation = micro_batches(sizes, step, config.train.micro_batch, allocation.ranks)
        since = f" from step {step} on" if step else ""
        yield f"# global batch {size}{since} = {allocation.ranks} processes x {accumulation} x micro-batch {micro}"


def _disk(config: TrainingStage) -> Iterator[str]:
    parameters = _parameters(config)
    if parameters is None:
        yield "# disk: unknown, for the weights that this stage goes on from are not made yet"
        return
    train = config.train
    kept = train.keep_last + 1 + (train.best_metric is not None)  # one more while the next is written
    kept += train.steps // train.keep_every if train.keep_every else 0
    size = parameters * CHECKPOINT_BYTES
    total = kept * size + parameters * FINAL_BYTES
    yield (
        f"# disk: {parameters / 1e6:.1f} million parameters, up to {size / 1e9:.2f} GB a checkpoint, {kept} of them "
        f"and the final weights: up to {total / 1e9:.1f} GB"
    )


def _parameters(config: TrainingStage) -> int | None:
    """Of the whole model; None when it is described in a file that is not there yet."""
    weights = config.base if isinstance(config, BaseStage | DpoStage) else None
    if weights is not None:
        return os.stat(weights).st_size // 4 if os.path.exists(weights) else None  # fp32
    import torch  # seconds

    from adhmr.models.base_model import BaseModel
    from adhmr.models.regressor import Regressor
    from adhmr.models.scorer import HMRScorer

    networks = {ScorerStage: HMRScorer, RegressorStage: Regressor}
    with torch.device("meta"):  # shapes without memory
        model = networks.get(type(config), BaseModel)(config.model)
    return sum(parameter.numel() for parameter in model.parameters())


def _time(config: TrainingStage, allocation: Allocation, cluster: ClusterConfig) -> Iterator[str]:
    train = config.train
    limit = 60 * allocation.time_minutes
    yield (
        f"# time: jobs save and leave {max(cluster.signal_seconds, train.stop_margin):.0f} s before their end and go "
        f"on in the next; a crash repeats {train.save_every} steps at most (train.save_every)"
    )
    times = [line["step_time"] for line in read_metrics(config.output) if "step_time" in line]
    if not times:
        yield "# time: of a step is not known before the run has begun"
        return
    step = median(times[-20:])
    interval = step * train.save_every
    yield (
        f"# time: {step:.2f} s a step so far in this folder; a checkpoint every {interval / 60:.1f} minutes; "
        f"{train.steps * step / limit:.1f} jobs for {train.steps} steps"
    )
    if interval > limit:
        yield f"# time: WARNING: that is longer than a job ({allocation.time_minutes} minutes); lower train.save_every"
