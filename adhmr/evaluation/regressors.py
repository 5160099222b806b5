"""Stage "regressors": errors of deterministic regressors on labelled sets (the paper's Table 5). Writes errors of each
image (sets/SET/NAME.npz) and figures (figures.json); the table is made from those in regressor_table.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import roma
import torch

from adhmr.atomic_file import write_atomically
from adhmr.body.body_model import BodyModel, JointRegressor, body_hash
from adhmr.config.data import CropConfig
from adhmr.config.regressor import EvaluatedRegressor, EvaluatedSet, RegressorsStage
from adhmr.data.shard_reader import ShardReader
from adhmr.data.stream import iterate_set
from adhmr.data.transforms import LabelledCrop
from adhmr.errors import AdhmrError
from adhmr.evaluation.protocol import annotated_joints, load_regressor, rows_of
from adhmr.evaluation.regressor_table import print_table
from adhmr.models.regressor import Regressor
from adhmr.models.weights import load_model, read_metadata, weights_hash
from adhmr.preference.mesh_errors import ERROR_NAMES, mesh_errors
from adhmr.progress import track

VALIDATION_BATCH = 32


@torch.no_grad()
def errors_on(
    model: Regressor,
    body: BodyModel,
    reader: ShardReader,
    rows: range,
    crop: CropConfig,
    counted: EvaluatedSet | None = None,
    regressor: JointRegressor | None = None,
    images_per_batch: int = VALIDATION_BATCH,
) -> np.ndarray:
    """(N, 4) millimetres, in the order of ERROR_NAMES, on these rows of a labelled set.

    counted: the set's protocol, with the regressor of Human3.6M's joints where it needs one; None counts the
    skeleton's own joints.
    """
    device = next(model.parameters()).device
    body.to(device)
    collected = []
    for batch in iterate_set(reader, LabelledCrop(crop, None), images_per_batch, rows=rows):
        batch = {name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()}
        _, predicted = model(batch["image"], batch["intrinsics"])
        joints = None if counted is None else annotated_joints(counted.protocol, regressor, batch)
        target = roma.rotvec_to_rotmat(batch["pose"])  # (N, 24, 3, 3)
        one = predicted.rotations[:, None]  # (N, 1, 24, 3, 3): the only hypothesis
        errors = mesh_errors(body, one, predicted.betas, target, batch["betas"], annotated=joints)
        collected.append(1000.0 * errors[:, 0].cpu())
    return torch.cat(collected).numpy()


def validation_errors(
    model: Regressor, body: BodyModel, folder: str | Path, crop: CropConfig, limit: int
) -> dict[str, float]:
    """Mean millimetres of each error on the first `limit` samples: what training looks at."""
    reader = ShardReader(folder)
    errors = errors_on(model, body, reader, range(min(limit, len(reader))), crop)
    return dict(zip(ERROR_NAMES, errors.mean(0).tolist(), strict=True))


def crop_of(model: EvaluatedRegressor, padding: float | None) -> CropConfig:
    """The crops that a regressor is for; `padding` in place of the one that its file says."""
    metadata = read_metadata(model.weights)
    if metadata["kind"] != "regressor":
        raise AdhmrError(f"{model.weights}: holds a model of kind '{metadata['kind']}', expected 'regressor'")
    return CropConfig(size=metadata["config"]["crop_size"], padding=padding or metadata["crop_padding"])


class SetEvaluation:
    """One labelled set: the errors of each regressor on it."""

    def __init__(self, config: RegressorsStage, counted: EvaluatedSet, body: BodyModel, joints: JointRegressor | None):
        self.config, self.counted, self.body = config, counted, body
        self.regressor = joints if counted.protocol.joints == "h36m14" else None
        self.reader = ShardReader(counted.path)
        self.rows = rows_of(counted.protocol, len(self.reader), counted.limit)
        self.folder = config.output / "sets" / counted.title
        self.folder.mkdir(parents=True, exist_ok=True)

    def settings(self) -> dict[str, Any]:
        """By what errors are counted."""
        regressor = None if self.regressor is None else weights_hash(self.config.regressor)
        return {
            "protocol": self.counted.protocol.model_dump(mode="json", exclude={"candidates", "root"}),
            "regressor": regressor,
            "body": body_hash(self.config.body),
            "data": self.reader.index.fingerprint,
            "images": len(self.rows),
        }

    def errors(self, evaluated: EvaluatedRegressor) -> np.ndarray:
        """(N, 4) millimetres; those that are there for the same weights and settings are read."""
        crop = crop_of(evaluated, self.counted.padding)
        weights = weights_hash(evaluated.weights)
        identity = json.dumps({**self.settings(), "weights": weights, "crop": crop.model_dump(mode="json")})
        path = self.folder / f"{evaluated.name}.npz"
        if path.exists():
            with np.load(path) as stored:
                if str(stored["identity"]) == identity:
                    return stored["errors"]
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = load_model(evaluated.weights, "regressor").to(device)
        errors = errors_on(
            model, self.body, self.reader, self.rows, crop, self.counted, self.regressor, self.config.images_per_batch
        )
        temporary = path.with_suffix(".tmp.npz")
        np.savez_compressed(temporary, identity=identity, errors=errors)
        temporary.replace(path)
        return errors


def run_stage(config: RegressorsStage) -> None:
    body = BodyModel(config.body)
    joints = load_regressor(config, body)
    figures: dict[str, Any] = {
        "models": {
            model.name: {"group": model.group, "weights": weights_hash(model.weights)} for model in config.models
        },
        "sets": {},
    }
    for counted in config.sets:
        evaluation = SetEvaluation(config, counted, body, joints)
        means = {}
        for model in track(config.models, f"regressors on {counted.title}", "models"):
            errors = evaluation.errors(model)
            means[model.name] = dict(zip(ERROR_NAMES, errors.mean(0).tolist(), strict=True))
        figures["sets"][counted.title] = {
            "protocol": counted.protocol.title,
            "settings": evaluation.settings(),
            "samples": len(evaluation.rows),
            "mean_mm": means,
        }
    write_atomically(config.output / "figures.json", json.dumps(figures, indent=1))
    print_table(config.output)
