"""Cluster profiles, configs/clusters/NAME.yaml: what a site's SLURM wants to be told, and what a stage gets of it when
its own `resources` leave a value out. What is done with them is in submission.py and local.py."""

from __future__ import annotations

import difflib
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from adhmr.config.base import StrictModel
from adhmr.config.common import StageConfig
from adhmr.config.evaluation import ReportStage
from adhmr.config.loading import load_config
from adhmr.config.stages import SynthStage
from adhmr.errors import AdhmrError

FOLDER = Path("configs/clusters")
HERE = Path(__file__).resolve().parents[1] / FOLDER  # of the checkout, for commands that run elsewhere


class ClusterConfig(StrictModel):
    """A profile. null: SLURM's own default."""

    name: str | None = None  # null: the file's
    kind: Literal["slurm", "local"]  # local: processes on this machine, without SLURM
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus_per_node: int = Field(0, ge=0)
    cpus_per_task: int | None = Field(None, gt=0)
    memory_gb: float | None = Field(None, gt=0)  # of each node
    time_minutes: int = Field(60, gt=0)  # of one job
    array_parallel: int = Field(256, gt=0)  # workers of an array that run at once
    modules: list[str] = []  # `module load` of each, in this order
    environment: dict[str, str] = {}  # variables of the job
    python: str | None = None  # null: the one that submits; another path inside a container
    container: str | None = None  # `apptainer exec --nv IMAGE`, or options of srun as `--container-image=IMAGE`
    signal_seconds: int = Field(120, ge=10)  # before the time limit: save and leave
    sbatch_options: dict[str, str | int | bool] = {}  # others of sbatch: {reservation: night, exclusive: true}
    max_requeues: int | None = Field(None, ge=0)  # of one submission, for whatever reason; null: no limit
    max_failures: int = Field(5, gt=0)  # attempts in a row that fail without any progress
    preflight: bool = True  # look at each node before the stage starts there

    @model_validator(mode="after")
    def _check_signal(self) -> ClusterConfig:
        if self.signal_seconds >= 30 * self.time_minutes:
            raise ValueError(
                f"signal_seconds {self.signal_seconds} is half of time_minutes {self.time_minutes} or more: "
                "jobs would leave before they have done anything"
            )
        return self


@dataclass(frozen=True)
class Allocation:
    """What one job of a stage gets: the stage's `resources`, filled up from the profile."""

    nodes: int
    tasks_per_node: int
    cpus_per_task: int | None
    gpus_per_node: int
    memory_gb: float | None
    time_minutes: int
    array: int | None

    @property
    def ranks(self) -> int:
        return self.nodes * self.tasks_per_node


def allocation_of(config: StageConfig, cluster: ClusterConfig) -> Allocation:
    """Stages that train take all GPUs of their nodes, a process each; other stages one GPU at most.

    Raises AdhmrError for more GPUs than the cluster's nodes have.
    """
    asked = config.resources
    trains = config.trains
    usual = cluster.gpus_per_node if trains else 0 if isinstance(config, SynthStage | ReportStage) else 1
    gpus = min(usual, cluster.gpus_per_node) if asked.gpus_per_node is None else asked.gpus_per_node
    if gpus > cluster.gpus_per_node:
        raise AdhmrError(
            f"resources.gpus_per_node is {gpus}, but a node of cluster {cluster.name} has {cluster.gpus_per_node} "
            "(gpus_per_node of its profile)"
        )
    return Allocation(
        nodes=asked.nodes,
        tasks_per_node=asked.tasks_per_node or (max(gpus, 1) if trains else 1),
        cpus_per_task=asked.cpus_per_task or cluster.cpus_per_task,
        gpus_per_node=gpus,
        memory_gb=asked.memory_gb or cluster.memory_gb,
        time_minutes=asked.time_minutes or cluster.time_minutes,
        array=asked.array if asked.array is not None and asked.array > 1 else None,
    )


def load_cluster(name: str) -> ClusterConfig:
    """The profile of a name in configs/clusters, or of a file.

    Raises AdhmrError: no such profile, or something in it is wrong.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
    else:
        folders = [folder for folder in (FOLDER, HERE) if folder.is_dir()]
        path = next((folder / f"{name}.yaml" for folder in folders if (folder / f"{name}.yaml").exists()), None)
        if path is None:
            known = sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known) or 'none'}"
            raise AdhmrError(f"--cluster {name}: no {FOLDER}/{name}.yaml; {hint} (or name a .yaml file)")
    cluster = load_config(path, [], ClusterConfig)
    return cluster if cluster.name else cluster.model_copy(update={"name": path.stem})


def container_words(cluster: ClusterConfig) -> tuple[list[str], list[str]]:
    """(options of srun, words before python) of the profile's `container`; variables in it are filled in here."""
    words = shlex.split(os.path.expandvars(cluster.container or ""))
    return (words, []) if words and words[0].startswith("-") else ([], words)
