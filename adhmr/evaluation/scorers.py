"""Stage "scorers": raw scores of disturbed ground truths and of a base model's own hypotheses by several scorers, and
the errors of both. Writes them per image (sets/NAME.npz) with the tables' figures (figures.json); what is made of the
arrays is in scorers_result.py."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adhmr.atomic_file import write_atomically
from adhmr.body.body_model import BodyModel, body_hash
from adhmr.body.hypotheses import Hypotheses
from adhmr.config.data import CropConfig
from adhmr.config.evaluation import EvaluatedScorer, ScoredSet, ScorersStage
from adhmr.data.randomness import generator_for
from adhmr.data.shard_reader import ShardReader
from adhmr.data.stream import Batch, iterate_set
from adhmr.data.transforms import LabelledCrop
from adhmr.errors import AdhmrError
from adhmr.evaluation.protocol import TOP, mean_hypothesis
from adhmr.evaluation.scorer_panel import Look, ScorerPanel
from adhmr.evaluation.scorers_result import ARRAYS, ScorersResult
from adhmr.evaluation.scorers_section import scorers_parts
from adhmr.evaluation.sections import Table
from adhmr.evaluation.terminal import print_parts
from adhmr.models.weights import load_model, read_metadata, weights_hash
from adhmr.preference.hypotheses import fresh_noise, hypothesis_noise, pose_hypotheses, sample_hypotheses
from adhmr.preference.mesh_errors import errors_of_hypotheses
from adhmr.preference.noised_truth import draw_pose_noise, noised_truth
from adhmr.preference.rankings import RANKINGS, RankingContext, training_free
from adhmr.progress import track


class ScorersEvaluation:
    """Scorers, base model and settings of one evaluation; `arrays` measures a set."""

    def __init__(self, config: ScorersStage):
        self.config = config
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.body = BodyModel(config.body).to(self.device)
        self.base = None if config.base is None else load_model(config.base, "base").to(self.device)
        if self.base is not None and self.base.config.crop_size != config.crop.size:
            made_for = self.base.config.crop_size
            raise AdhmrError(f"{config.base}: made for crops of {made_for} px, but crop.size is {config.crop.size}")
        self.rankings = [] if self.base is None else training_free(self.base.config.encoder)
        self.panel = ScorerPanel(self.base, config.precision, config.hypotheses_per_call)
        for scorer in config.scorers:
            self.panel.add(scorer.name, load_model(scorer.weights, "scorer").to(self.device))

    def identity(self, chosen: ScoredSet, reader: ShardReader) -> str:
        """Of all that the arrays of a set depend on."""
        config = self.config
        made_by = {"noise", "disturbed", "crop", "hypotheses", "sampler", "ik", "precision", "seed"}
        settings = {
            **config.model_dump(mode="json", include=made_by),
            "scorers": {scorer.name: weights_hash(scorer.weights) for scorer in config.scorers},
            "base": None if config.base is None else weights_hash(config.base),
            "rankings": self.rankings,
            "body": body_hash(config.body),
            "data": reader.index.fingerprint,
            "padding": chosen.padding,
            "limit": chosen.limit,
        }
        return json.dumps(settings, sort_keys=True)

    def scorer_crop(self, scorer: EvaluatedScorer, chosen: ScoredSet) -> CropConfig:
        """The crops that a scorer learnt with; raises AdhmrError when nothing says their padding."""
        padding = chosen.padding or read_metadata(scorer.weights).get("crop_padding")
        if padding is None:
            raise AdhmrError(
                f"{scorer.weights}: does not say how large its crops were; set sets.padding as in its training"
            )
        model = self.panel.scorers[scorer.name].config
        return CropConfig(size=model.crop_size, aspect=model.crop_aspect, padding=padding)

    def crops(self, chosen: ScoredSet) -> dict[CropConfig, list[str]]:
        """Crops of a set -> scorers that look at disturbed truths in them: each image is cut once for each."""
        crops: dict[CropConfig, list[str]] = {}
        if self.base is not None:
            crops[self.base_crop(chosen)] = []
        if self.config.noise:
            for scorer in self.config.scorers:
                crops.setdefault(self.scorer_crop(scorer, chosen), []).append(scorer.name)
        return crops

    def base_crop(self, chosen: ScoredSet) -> CropConfig | None:
        crop = self.config.crop
        return crop if crop is None or chosen.padding is None else crop.model_copy(update={"padding": chosen.padding})

    @torch.no_grad()
    def arrays(self, chosen: ScoredSet, reader: ShardReader) -> dict[str, np.ndarray]:
        """Of one set, N images; the keys are those of scorers_result.ScorersResult."""
        collected: dict[str, list[np.ndarray]] = {}
        for crop, names in self.crops(chosen).items():
            for batch in self._batches(reader, crop, chosen):
                look = self.panel.look(batch["image"])
                made = {}
                if names:
                    made |= self._disturbed(batch, look, names)
                if crop == self.base_crop(chosen):
                    made |= self._own(batch, look)
                for name, value in made.items():
                    collected.setdefault(name, []).append(value.float().cpu().numpy())
        # The errors of disturbed truths do not depend on crops: each crop gives them once more.
        rows = len(range(len(reader))[: chosen.limit])
        return {name: np.concatenate(values)[:rows] for name, values in collected.items()}

    def _batches(self, reader: ShardReader, crop: CropConfig, chosen: ScoredSet) -> Iterator[Batch]:
        size = self.config.images_per_batch
        rows = range(len(reader))[: chosen.limit]
        stream = iterate_set(reader, LabelledCrop(crop), size, rows=rows)
        for _, batch in zip(track(range(0, len(rows), size), f"scorers on {chosen.name}", "batches"), stream):
            yield {name: value.to(self.device) if torch.is_tensor(value) else value for name, value in batch.items()}

    def _disturbed(self, batch: Batch, look: Look, names: list[str]) -> dict[str, Tensor]:
        """Ground truths disturbed by all noises (paper section 5.1), `disturbed` each; keyed by noise and image."""
        config = self.config
        drawn = [
            [draw_pose_noise(kind, config.disturbed, generator_for(config.seed, name, key)) for key in batch["key"]]
            for name, kind in config.noise.items()
        ]
        noise = torch.from_numpy(np.concatenate(drawn, 1)).to(self.device)  # (N, noises * D, 85)
        truth = noised_truth(self.body, self.body, batch, noise)
        by_noise = (len(config.noise), config.disturbed)
        made = {"disturbed_errors": 1000.0 * truth.errors.unflatten(1, by_noise)}
        for name, raw in look.scores(names, truth.hypotheses).items():
            made[f"disturbed_value_{name}"] = raw.unflatten(1, by_noise)
        return made

    def _own(self, batch: Batch, look: Look) -> dict[str, Tensor]:
        """The base model's hypotheses: their errors, and their values by rankings and scorers, which see what
        generation shows them."""
        config, size = self.config, self.config.crop.size
        features = look.base_features()
        count = config.hypotheses
        sampled = sample_hypotheses(
            self.base,
            features,
            hypothesis_noise(config.seed, batch["key"], count),
            size,
            config.precision,
            config.sampler,
            fresh_noise(config.seed, batch["key"], count),
            config.hypotheses_per_call,
        )
        sampled = self._posed(sampled, features.betas, batch)
        context = RankingContext(batch["key"], batch["image"], features, sampled, size, config.seed)
        values = {name: RANKINGS[name](context) for name in self.rankings}
        values |= look.scores(self.panel.scorers, sampled)
        means = [mean_hypothesis(sampled), *(mean_hypothesis(best_of(sampled, value)) for value in values.values())]
        means = Hypotheses(torch.cat([m.uvd for m in means], 1), torch.cat([m.twists for m in means], 1))
        errors, of_means = (
            1000.0 * errors_of_hypotheses(self.body, posed, features.betas, batch)
            for posed in (sampled, self._posed(means, features.betas, batch))
        )
        made = {"errors": errors, "mean_errors": of_means[:, 0]}
        for number, (name, value) in enumerate(values.items(), 1):
            made[f"value_{name}"], made[f"top_errors_{name}"] = value, of_means[:, number]
        return made

    def _posed(self, hypotheses: Hypotheses, betas: Tensor, batch: Batch) -> Hypotheses:
        placing = batch["intrinsics"], batch["root_depth"], self.config.ik
        return hypotheses._replace(rotations=pose_hypotheses(self.body, hypotheses, betas, *placing))


def best_of(hypotheses: Hypotheses, values: Tensor) -> Hypotheses:
    """(N, TOP, ...) those of the highest values (N, M)."""
    best = values.topk(min(TOP, values.shape[1]), 1).indices[..., None, None]
    return Hypotheses(hypotheses.uvd.take_along_dim(best, 1), hypotheses.twists.take_along_dim(best, 1))


def run_stage(config: ScorersStage) -> None:
    evaluation = ScorersEvaluation(config)
    about: dict[str, Any] = {
        "scorers": {scorer.name: {"group": scorer.group} for scorer in config.scorers},
        "rankings": evaluation.rankings,
        "noise": list(config.noise),
        "pairs": config.pairs,
        "sets": {},
    }
    for chosen in config.sets:
        reader = ShardReader(chosen.path)
        path, identity = config.output / ARRAYS / f"{chosen.name}.npz", evaluation.identity(chosen, reader)
        if not _is_of(path, identity):
            buffer = io.BytesIO()
            np.savez_compressed(buffer, identity=identity, **evaluation.arrays(chosen, reader))
            write_atomically(path, buffer.getvalue())
        about["sets"][chosen.name] = {
            "samples": len(range(len(reader))[: chosen.limit]),
            "settings": json.loads(identity),
        }
    parts = scorers_parts(ScorersResult(about, config.output / ARRAYS))
    about["tables"] = {part.name: part.records for part in parts if isinstance(part, Table)}
    write_atomically(config.output / "figures.json", json.dumps(about, indent=1))
    print_parts(parts)


def _is_of(path: Path, identity: str) -> bool:
    """Whether a set was measured before, by the same weights and settings."""
    if not path.exists():
        return False
    with np.load(path) as stored:
        return str(stored["identity"]) == identity
