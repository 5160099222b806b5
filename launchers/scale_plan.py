"""The runs of a scale-up experiment: a training stage at several numbers of nodes, some steps each, with the arithmetic
of its batch. Nothing is run or measured here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from adhmr.config.common import StageConfig, TrainingStage
from adhmr.config.loading import check_values
from adhmr.config.stages import Stage
from adhmr.errors import AdhmrError
from launchers.cluster import ClusterConfig, allocation_of

Scaling = Literal["weak", "strong"]


@dataclass(frozen=True)
class Size:
    """One run of the experiment."""

    nodes: int
    ranks: int
    global_batch: int
    micro_batch: int
    config: TrainingStage

    @property
    def share(self) -> int:
        """Samples of a rank in a step."""
        return self.global_batch // self.ranks

    def __str__(self) -> str:
        parts = self.share // self.micro_batch
        return (
            f"{self.nodes} nodes: {self.ranks} ranks x {self.share} samples = global batch {self.global_batch} "
            f"({parts} micro-batches of {self.micro_batch} a rank)"
        )


def plan_sizes(
    config: StageConfig,
    cluster: ClusterConfig,
    nodes: Sequence[int],
    scaling: Scaling,
    steps: int,
    warmup: int,
    output: Path,
) -> list[Size]:
    """weak: each rank has as many samples a step as in the stage's file, so the global batch grows with the nodes;
    strong: the global batch is the file's, so the share of a rank shrinks.

    Raises AdhmrError: no stage that trains, or a batch that does not divide.
    """
    if not config.trains:
        raise AdhmrError(f"stage {config.stage} does not train: expected a base, scorer, regressor or dpo stage")
    at_home = allocation_of(config, cluster)
    train = config.train
    if train.global_batch % at_home.ranks:
        raise AdhmrError(
            f"train.global_batch {train.global_batch} is not a multiple of the stage's own {at_home.ranks} processes "
            f"({at_home.nodes} nodes x {at_home.tasks_per_node}): change one of them"
        )
    sizes = []
    for number in sorted(set(nodes)):
        ranks = number * at_home.tasks_per_node
        whole = train.global_batch if scaling == "strong" else train.global_batch // at_home.ranks * ranks
        if whole % ranks:
            raise AdhmrError(
                f"strong scaling: train.global_batch {whole} is not a multiple of {ranks} processes ({number} nodes); "
                "choose another global batch, or weak scaling"
            )
        share = whole // ranks
        micro = min(train.micro_batch or share, share)
        if share % micro:
            raise AdhmrError(
                f"{number} nodes: a rank's {share} samples are not a multiple of train.micro_batch {micro}: change it"
            )
        run = output / f"nodes-{number:04d}"
        sizes.append(Size(number, ranks, whole, micro, _short(config, number, whole, micro, steps, warmup, run)))
    return sizes


def _short(
    config: TrainingStage, nodes: int, global_batch: int, micro: int, steps: int, warmup: int, output: Path
) -> TrainingStage:
    """The stage for warmup + steps steps and nothing else: no evaluation, no checkpoint but the last."""
    values = config.model_dump(mode="json")
    values["output"] = str(output)
    values["resources"]["nodes"] = nodes
    values["train"].update(
        steps=warmup + steps,
        global_batch=global_batch,
        micro_batch=micro,
        log_every=math.gcd(warmup, steps) if warmup else steps,  # no interval lies across the end of the warm-up
        save_every=warmup + steps,
        evaluate_every=None,
        best_metric=None,
        keep_every=None,
        max_seconds=None,
    )
    values["tracking"]["wandb"] = "off"
    values["profile"] = None
    if "validation" in values:
        values["validation"] = None
    phases = values.get("data", values)  # a dpo stage has them at its top
    phases["phases"] = []  # they would change the batch
    return check_values(values, TypeAdapter(Stage), "scale")
