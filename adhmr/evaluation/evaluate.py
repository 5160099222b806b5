"""Stage "evaluate": errors of several base models on one labelled set, with the same noise for all, and how well scorer
and training-free rankings order their hypotheses. Writes errors per image (models/NAME.npz) and figures (figures.json);
tables are made from those in tables.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adhmr.atomic_file import write_atomically
from adhmr.body.body_model import BodyModel, body_hash
from adhmr.body.hypotheses import Hypotheses
from adhmr.body.vertex_subset import VertexSubset
from adhmr.config.evaluation import EvaluatedModel, EvaluateStage
from adhmr.data.randomness import generator_for
from adhmr.data.shard_reader import ShardReader
from adhmr.data.stream import Batch, iterate_set
from adhmr.data.transforms import LabelledCrop
from adhmr.errors import AdhmrError
from adhmr.evaluation.correlation import pooled_correlation, within_image_correlation
from adhmr.evaluation.protocol import (
    annotated_joints,
    load_regressor,
    mean_hypothesis,
    official_candidates,
    posed,
    rows_of,
)
from adhmr.evaluation.tables import print_tables
from adhmr.models.weights import load_model, weights_hash
from adhmr.preference.hypotheses import fresh_noise, hypothesis_noise, sample_hypotheses
from adhmr.preference.mesh_errors import ERROR_NAMES, errors_of_hypotheses
from adhmr.preference.noised_truth import draw_pose_noise, noised_truth
from adhmr.preference.rankings import RANKINGS, RankingContext, training_free
from adhmr.preference.scoring import Scoring
from adhmr.progress import track


class Evaluation:
    """What all models of one evaluation share."""

    def __init__(self, config: EvaluateStage):
        self.config = config
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.reader = ShardReader(config.data)
        self.body = BodyModel(config.body).to(self.device)
        self.meshes = VertexSubset(self.body).to(self.device)  # all vertices, faster than the body itself
        self.scorer = None if config.scorer is None else load_model(config.scorer, "scorer").to(self.device)
        self.regressor = load_regressor(config, self.body)
        self.crop = LabelledCrop(config.crop, None)
        self.rows = rows_of(config.protocol, len(self.reader), config.limit)

    def settings(self) -> dict[str, Any]:
        """By what errors are counted: the protocol with its name, and what hypotheses and bodies are made by."""
        files = {"scorer": self.config.scorer, "regressor": self.config.regressor}
        return {
            **self.config.model_dump(mode="json", include={"protocol", "crop", "seed", "precision", "sampler", "ik"}),
            **{name: None if path is None else weights_hash(path) for name, path in files.items()},
            "body": body_hash(self.config.body),
            "data": self.reader.index.fingerprint,
            "images": len(self.rows),
        }

    def identity(self, evaluated: EvaluatedModel) -> str:
        """Of all that the arrays of a model depend on."""
        official = self.config.protocol.candidates == "official"
        counts = self.config.hypotheses if official else max(self.config.hypotheses)
        of_model = {"weights": weights_hash(evaluated.weights), "hypotheses": counts, "rankings": list(RANKINGS)}
        return json.dumps({**self.settings(), **of_model})

    def batches(self, title: str) -> Any:
        size = self.config.images_per_batch
        starts = range(0, len(self.rows), size)
        stream = iterate_set(self.reader, self.crop, size, rows=self.rows)
        for _, batch in zip(track(starts, title, "batches"), stream):
            yield {name: value.to(self.device) if torch.is_tensor(value) else value for name, value in batch.items()}

    def errors(self, hypotheses: Hypotheses, betas: torch.Tensor, batch: Batch) -> torch.Tensor:
        """(N, M, 4) millimetres of hypotheses with rotations, by the protocol's joints."""
        annotated = annotated_joints(self.config.protocol, self.regressor, batch)
        return 1000.0 * errors_of_hypotheses(self.meshes, hypotheses, betas, batch, annotated=annotated)

    @torch.no_grad()
    def model(self, evaluated: EvaluatedModel) -> dict[str, np.ndarray]:
        """Arrays of one model: errors (N, M, 4) mm of each hypothesis, mean_errors (N, 4) of the mean hypothesis, of
        each ranking its values (N, M), and with official candidates extra_errors (N, K, 2, 4) of the scorer's choice
        and the mean among the first M hypotheses, for each of the K values of M."""
        model = load_model(evaluated.weights, "base").to(self.device)
        if model.config.crop_size != self.config.crop.size:
            made_for, given = model.config.crop_size, self.config.crop.size
            raise AdhmrError(f"{evaluated.weights}: made for crops of {made_for} px, but crop.size is {given}")
        rankings = [*training_free(model.config.encoder), *(["scorer"] if self.scorer is not None else [])]
        scoring = None if self.scorer is None else Scoring(self.scorer, model)
        collected: dict[str, list[torch.Tensor]] = {}
        for batch in self.batches(f"evaluate {evaluated.name}"):
            features = model.encoder(batch["image"])
            noise = hypothesis_noise(self.config.seed, batch["key"], max(self.config.hypotheses))
            fresh = fresh_noise(self.config.seed, batch["key"], max(self.config.hypotheses))
            hypotheses = sample_hypotheses(
                model, features, noise, self.config.crop.size, self.config.precision, self.config.sampler, fresh
            )
            hypotheses = posed(self.config, self.body, hypotheses, features.betas, batch)
            context = RankingContext(
                batch["key"], batch["image"], features, hypotheses, self.config.crop.size, self.config.seed, scoring
            )
            made = {f"value_{name}": RANKINGS[name](context) for name in rankings}
            made["errors"] = self.errors(hypotheses, features.betas, batch)
            mean = posed(self.config, self.body, mean_hypothesis(hypotheses), features.betas, batch)
            made["mean_errors"] = self.errors(mean, features.betas, batch)[:, 0]
            if self.config.protocol.candidates == "official":
                extra = official_candidates(hypotheses, made["value_scorer"], self.config.hypotheses)
                extra = posed(self.config, self.body, extra, features.betas, batch)
                made["extra_errors"] = self.errors(extra, features.betas, batch).unflatten(1, (-1, 2))
            for name, value in made.items():
                collected.setdefault(name, []).append(value.cpu())
        return {name: torch.cat(values).numpy() for name, values in collected.items()}

    @torch.no_grad()
    def scorer_on_noised_truth(self, name: str) -> dict[str, Any]:
        """The pooled test of section 5.1: one disturbed ground truth an image; correlations with each error."""
        scores, errors = [], []
        for batch in self.batches(f"scorer on noise '{name}'"):
            noise = np.stack(
                [
                    draw_pose_noise(self.config.scorer_noise[name], 1, generator_for(self.config.seed, name, key))
                    for key in batch["key"]
                ]
            )
            truth = noised_truth(self.body, self.meshes, batch, torch.from_numpy(noise).to(self.device))
            scores.append(self.scorer(batch["image"], truth.hypotheses)[1].cpu())
            errors.append(truth.errors.cpu())
        pooled, error = torch.cat(scores)[:, 0].numpy(), 1000.0 * torch.cat(errors)[:, 0].numpy()
        figures: dict[str, Any] = {"samples": len(pooled)}
        for index, metric in enumerate(ERROR_NAMES):
            figures[metric] = {"mean_mm": float(error[:, index].mean()), **pooled_correlation(pooled, error[:, index])}
        return figures


def ranking_figures(arrays: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Within-image rank correlation of each ranking with PVE over the random hypotheses (the zero-noise one is left
    out: it is what `mode` measures the distance to), and the error of the hypothesis that the ranking picks."""
    pve = arrays["errors"][..., 0]
    figures = {}
    for name in (key.removeprefix("value_") for key in arrays if key.startswith("value_")):
        value = arrays[f"value_{name}"]
        within = within_image_correlation(value[:, 1:], pve[:, 1:])
        picked = np.take_along_axis(pve[:, 1:], value[:, 1:].argmax(1)[:, None], 1)
        figures[name] = {
            "within_image_srcc": float(within.mean()),
            "within_image_positive": float((within > 0).mean()),
            "pooled_srcc": pooled_correlation(value.ravel(), pve.ravel())["srcc"],
            "picked_pve": float(picked.mean()),
        }
    return figures


def run_stage(config: EvaluateStage) -> None:
    evaluation = Evaluation(config)
    folder = config.output / "models"
    folder.mkdir(exist_ok=True)
    figures: dict[str, Any] = {
        "protocol": config.protocol.title,
        "settings": evaluation.settings(),
        "hypotheses": config.hypotheses,
        "samples": len(evaluation.rows),
        "models": {},
    }
    for evaluated in config.models:
        path = folder / f"{evaluated.name}.npz"
        identity = evaluation.identity(evaluated)
        arrays = _load_finished(path, identity)
        if arrays is None:
            arrays = evaluation.model(evaluated)
            temporary = path.with_suffix(".tmp.npz")
            np.savez_compressed(temporary, identity=identity, **arrays)
            temporary.replace(path)
        about = evaluated.model_dump(include={"group", "round"})
        figures["models"][evaluated.name] = {**about, "rankings": ranking_figures(arrays)}
    if evaluation.scorer is not None:
        figures["scorer"] = {name: evaluation.scorer_on_noised_truth(name) for name in config.scorer_noise}
    write_atomically(config.output / "figures.json", json.dumps(figures, indent=1))
    print_tables(config.output)


def _load_finished(path: Path, identity: str) -> dict[str, np.ndarray] | None:
    """The arrays of a model evaluated before, when they are of the same weights and settings."""
    if not path.exists():
        return None
    with np.load(path) as stored:
        if str(stored["identity"]) != identity:
            return None
        return {name: stored[name] for name in stored.files if name != "identity"}
