"""The generation of preferences (paper section 4.3) on one device: sample M hypotheses an image and rank them. What is
done on the host before and after is in crops.py and packing.py."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import islice

import torch

from adhmr.body.body_model import BodyModel, body_hash
from adhmr.body.hypotheses import Hypotheses
from adhmr.body.root_depth import estimate_root_depth
from adhmr.body.vertex_subset import VertexSubset
from adhmr.config.generation import GenerateStage
from adhmr.data.shard_reader import ShardReader
from adhmr.data.shard_writer import ShardSample
from adhmr.data.stream import Batch, collate
from adhmr.errors import AdhmrError
from adhmr.models.encoder import ImageFeatures
from adhmr.models.weights import load_model, weights_hash
from adhmr.preference.crops import Crop, CropCutter
from adhmr.preference.hypotheses import fresh_noise, pose_hypotheses, sample_hypotheses
from adhmr.preference.in_order import in_order
from adhmr.preference.mesh_errors import errors_of_hypotheses
from adhmr.preference.packing import Sampled, pack
from adhmr.preference.rankings import RANKINGS, RankingContext
from adhmr.preference.records import encoder_hash
from adhmr.preference.scoring import Scoring
from adhmr.preference.sharing import check_device, own_device

BY_LABEL = {"error", "truth"}  # rankings that need exact labels
CROP_THREADS = min(8, os.cpu_count() or 1)


class Generator:
    """Models and settings of one generation run; `batches` makes the samples of a unit for every ranking."""

    def __init__(self, config: GenerateStage):
        self.config = config
        self.device = own_device()
        self.base = load_model(config.base, "base").to(self.device)
        if self.base.config.crop_size != config.crop.size:
            trained = self.base.config.crop_size
            raise AdhmrError(f"crop.size is {config.crop.size}, but {config.base} was trained on crops of {trained} px")
        self.scoring = None
        if config.scorer is not None:
            scorer = load_model(config.scorer, "scorer").to(self.device)
            self.scoring = Scoring(scorer, self.base, config.precision, config.hypotheses_per_call)
        self.body = BodyModel(config.body).to(self.device)
        self.meshes = VertexSubset(self.body).to(self.device)  # of all vertices, for errors alone
        self.provenance = {
            "base": weights_hash(config.base),
            "encoder": encoder_hash(self.base.encoder),
            "scorer": None if config.scorer is None else weights_hash(config.scorer),
            "seed": config.seed,
            "hypotheses": config.hypotheses,
            "pairs": config.pairs,
            **config.model_dump(include={"strategy", "margin", "confidence", "distinct"}),
            "body": body_hash(config.body),
            "keep": config.keep,
            "features": config.features,
            "precision": config.precision,
            "sampler": config.sampler.model_dump(),
            "ik": config.ik,
        }

    def batches(
        self, reader: ShardReader, rows: range, rankings: Sequence[str]
    ) -> Iterator[Callable[[], dict[str, list[ShardSample]]]]:
        """The preference samples of some rows of a data set, batch by batch. What is given has been sampled; called, on
        any thread, it makes the samples by ranking. Crops are cut ahead."""
        size = self.config.images_per_batch
        cutter = CropCutter(reader, self.config, exact=self.needs_labels(rankings))
        with closing(in_order(cutter, rows, CROP_THREADS, ahead=2 * size)) as crops:
            while batch := list(islice(crops, size)):
                sampled = self.sampled(batch, rankings)
                yield partial(pack, self.config, self.provenance, rankings, batch, sampled)

    def check_device(self) -> None:
        """Raises when an error of the device has ended its use by this process: CUDA's stay until the process ends."""
        check_device(self.device)

    @staticmethod
    def needs_labels(rankings: Sequence[str]) -> bool:
        return not BY_LABEL.isdisjoint(rankings)

    def sampled(self, crops: Sequence[Crop], rankings: Sequence[str]) -> Sampled:
        """All of a batch that the device does."""
        batch = self.on_device(crops)
        features = self.encoded(batch)
        hypotheses = self.hypotheses(batch, features, rankings)
        errors = self.errors(batch, features, hypotheses) if self.needs_labels(rankings) else None
        values = self.values(batch, features, hypotheses, errors, rankings)
        stored = None if self.config.features == "none" else features._replace(local_map=None, heatmap_logits=None)
        return Sampled(hypotheses, values, errors, stored)

    # ------------------------------------------------------------------------------------------------ parts of a batch
    def on_device(self, crops: Sequence[Crop]) -> Batch:
        return {
            name: value.to(self.device) if torch.is_tensor(value) else value
            for name, value in collate([crop.item for crop in crops]).items()
        }

    @torch.no_grad()
    def encoded(self, batch: Batch) -> ImageFeatures:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            return self.base.encoder(batch["image"])

    @torch.no_grad()
    def hypotheses(self, batch: Batch, features: ImageFeatures, rankings: Sequence[str]) -> Hypotheses:
        """Sampled hypotheses; with rotations where errors are asked for, or by a scorer that looks at them."""
        config = self.config
        sampled = sample_hypotheses(
            self.base,
            features,
            batch["noise"],
            config.crop.size,
            config.precision,
            config.sampler,
            fresh_noise(config.seed, batch["key"], config.hypotheses),
            config.hypotheses_per_call,
        )
        by_rotations = "scorer" in rankings and self.scoring.scorer.config.sees_rotations
        if self.needs_labels(rankings) or by_rotations:
            return self.posed(sampled, features.betas, batch)
        return sampled

    @torch.no_grad()
    def errors(self, batch: Batch, features: ImageFeatures, hypotheses: Hypotheses) -> torch.Tensor:
        """(N, M) PVE in metres."""
        return errors_of_hypotheses(self.meshes, hypotheses, features.betas, batch, ["pve"])[..., 0]

    @torch.no_grad()
    def values(
        self,
        batch: Batch,
        features: ImageFeatures,
        hypotheses: Hypotheses,
        errors: torch.Tensor | None,
        rankings: Sequence[str],
    ) -> dict[str, torch.Tensor]:
        """(N, M) by ranking; truth has none."""
        config = self.config
        context = RankingContext(
            batch["key"], batch["image"], features, hypotheses, config.crop.size, config.seed, self.scoring, errors
        )
        return {ranking: RANKINGS[ranking](context) for ranking in rankings if ranking != "truth"}

    def posed(self, hypotheses: Hypotheses, betas: torch.Tensor, batch: Batch) -> Hypotheses:
        """With rotations, at the label's root depth; at the hypothesis' own where the label knows none (is 0)."""
        depth = batch["root_depth"][:, None].expand(hypotheses.uvd.shape[:2])  # (N, M) metres
        if (depth == 0).any():
            estimated = estimate_root_depth(self.body, hypotheses, betas, batch["intrinsics"], self.config.ik)
            depth = torch.where(depth == 0, estimated, depth)
        rotations = pose_hypotheses(self.body, hypotheses, betas, batch["intrinsics"], depth, self.config.ik)
        return hypotheses._replace(rotations=rotations)
