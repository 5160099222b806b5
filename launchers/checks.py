"""What must hold before a stage is queued: a job that waits for a day and then fails in its first second is no use.

Raises AdhmrError throughout. What a node must be like is in preflight.py; the configuration itself is in adhmr/config.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from adhmr.config.alignment import DpoStage
from adhmr.config.common import StageConfig, TrainingStage
from adhmr.data.steps import BatchSizes, micro_batches
from adhmr.errors import AdhmrError
from launchers.cluster import Allocation, ClusterConfig
from launchers.slurm_job import partitions
from launchers.stage_inputs import paths_read

UNUSABLE = "%:\n"  # in a run folder's path: SLURM's patterns, PYTHONPATH's separator, a script's lines


def check_stage(config: StageConfig, allocation: Allocation, cluster: ClusterConfig, after: Sequence[str]) -> None:
    """Inputs are looked for unless earlier jobs are going to make them (`after`)."""
    _check_folder(Path(config.output).absolute())
    if not after:
        missing = [(key, path) for key, path in paths_read(config) if "://" not in path and not os.path.exists(path)]
        if missing:
            key, path = missing[0]
            more = f" (and {len(missing) - 1} more)" if missing[1:] else ""
            raise AdhmrError(f"{key}: {path} does not exist{more}; make it first, or correct the path")
    if config.trains:
        sizes = batch_sizes(config)
        for step, _ in sizes.changes:
            micro_batches(sizes, step, config.train.micro_batch, allocation.ranks)
    if allocation.time_minutes * 30 <= cluster.signal_seconds:
        raise AdhmrError(
            f"resources.time_minutes is {allocation.time_minutes}, but jobs of cluster {cluster.name} are asked to "
            f"leave {cluster.signal_seconds} s before their end (signal_seconds), which must be less than half of it"
        )


def batch_sizes(config: TrainingStage) -> BatchSizes:
    """The global batches of a run, of its phases too."""
    phases = config.phases if isinstance(config, DpoStage) else config.data.phases
    changes = [(phase.from_step, phase.global_batch) for phase in phases if phase.global_batch]
    return BatchSizes([(0, config.train.global_batch), *changes])


def check_partition(allocation: Allocation, cluster: ClusterConfig) -> None:
    """Against what sinfo tells."""
    known = partitions()
    if known is None:
        raise AdhmrError(
            f"cluster {cluster.name}: sinfo does not answer on this machine; submit from a login node, or with "
            "--cluster local"
        )
    if cluster.partition is None:
        return
    found = next((partition for partition in known if partition.name == cluster.partition), None)
    if found is None:
        names = [partition.name for partition in known]
        near = difflib.get_close_matches(cluster.partition, names, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
        raise AdhmrError(
            f"partition {cluster.partition} of cluster {cluster.name}: SLURM has none of that name; {hint}"
        )
    if found.minutes is not None and allocation.time_minutes > found.minutes:
        raise AdhmrError(
            f"time_minutes {allocation.time_minutes} is more than the {found.minutes:.0f} that partition {found.name} "
            "gives a job; ask for less: a run that is not done goes on in the next job"
        )
    if allocation.nodes > found.nodes:
        raise AdhmrError(f"resources.nodes is {allocation.nodes}, but partition {found.name} has {found.nodes} nodes")


def _check_folder(run_dir: Path) -> None:
    bad = next((sign for sign in UNUSABLE if sign in str(run_dir)), None)
    if bad is not None:
        raise AdhmrError(f"output {run_dir}: {bad!r} in the path of a run folder is not possible here; choose another")
    there = next(folder for folder in (run_dir, *run_dir.parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise AdhmrError(f"output {run_dir}: {there} is no folder that you can write to; choose another")
