"""A few errors of a base model on a labelled set, cheap enough for the middle of training. The full evaluation, with
many hypotheses, scorers and several models, is in evaluate.py."""

from __future__ import annotations

from pathlib import Path

import torch

from adhmr.body.body_model import BodyModel
from adhmr.body.vertex_subset import VertexSubset
from adhmr.config.data import CropConfig
from adhmr.data.stream import iterate_set
from adhmr.data.transforms import LabelledCrop
from adhmr.models.base_model import BaseModel
from adhmr.preference.hypotheses import hypothesis_noise, pose_hypotheses, sample_hypotheses
from adhmr.preference.mesh_errors import ERROR_NAMES, errors_of_hypotheses

NUM_HYPOTHESES = 10
VALIDATION_SEED = 0  # of the hypotheses' noise, the same in every run: validations compare


@torch.no_grad()
def quick_errors(
    model: BaseModel, folder: str | Path, crop: CropConfig, limit: int, seed: int, body: BodyModel
) -> dict[str, float]:
    """Millimetres on the first `limit` samples: zero-noise, mean over hypotheses and minimum of ten, for each error."""
    device = next(model.parameters()).device
    body.to(device)
    meshes = VertexSubset(body).to(device)  # all vertices, faster than the body itself
    errors = []
    for batch in iterate_set(folder, LabelledCrop(crop, None), batch=16, workers=0, limit=limit):
        batch = {name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()}
        features = model.encoder(batch["image"])
        noise = hypothesis_noise(seed, batch["key"], NUM_HYPOTHESES)
        hypotheses = sample_hypotheses(model, features, noise, crop.size)
        rotations = pose_hypotheses(body, hypotheses, features.betas, batch["intrinsics"], batch["root_depth"])
        hypotheses = hypotheses._replace(rotations=rotations)
        errors.append(errors_of_hypotheses(meshes, hypotheses, features.betas, batch))
    millimetres = 1000.0 * torch.cat(errors)  # (N, M, 4)
    figures = {}
    for index, name in enumerate(ERROR_NAMES):
        error = millimetres[..., index]
        figures[f"{name}_zero"] = error[:, 0].mean().item()
        figures[f"{name}_random"] = error[:, 1:].mean().item()
        figures[f"{name}_min{NUM_HYPOTHESES}"] = error.min(1).values.mean().item()
    return figures
