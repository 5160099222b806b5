"""The score of a label: the scorer looks at the labelled body in its image as at any hypothesis. What is kept by it is
decided in clean.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from adhmr.body.body_model import BodyModel, body_hash
from adhmr.config.data import CropConfig
from adhmr.config.stages import CleanStage
from adhmr.data.shard_reader import ShardReader
from adhmr.data.stream import iterate_set
from adhmr.data.transforms import LabelledCrop
from adhmr.errors import AdhmrError
from adhmr.models.weights import load_model, read_metadata, weights_hash
from adhmr.preference.noised_truth import as_hypotheses


class LabelScorer:
    """A scorer and what it needs to look at labels. Attributes: crop; provenance, all that a raw score depends on."""

    def __init__(self, config: CleanStage):
        self.config = config
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.scorer = load_model(config.scorer, "scorer").to(self.device)
        self.body = BodyModel(config.body).to(self.device)
        padding = config.padding or read_metadata(config.scorer).get("crop_padding")
        if padding is None:
            raise AdhmrError(f"{config.scorer}: does not say how large its crops were; set padding as in its training")
        height, aspect = self.scorer.config.crop_size, self.scorer.config.crop_aspect
        self.crop = LabelledCrop(CropConfig(size=height, aspect=aspect, padding=padding))
        self.provenance: dict[str, Any] = {
            "scorer": weights_hash(config.scorer),
            "body": body_hash(config.body),
            "padding": padding,
            "precision": config.precision,
            "images_per_batch": config.images_per_batch,  # changes the last bits of scores, and with them choices
        }

    @torch.no_grad()
    def raw_scores(self, reader: ShardReader, rows: range, quarantine: Path) -> np.ndarray:
        """(len(rows),) float32; NaN for samples that cannot be read or cropped, which are noted in `quarantine`.

        Raises AdhmrError for a sample without pose, shape or depth, and for a scorer whose score is not finite.
        """
        scores = np.full(len(rows), np.nan, np.float32)
        size = self.config.images_per_batch
        for batch in iterate_set(reader, self.crop, size, rows=rows, quarantine=quarantine):
            batch = {name: value.to(self.device) if torch.is_tensor(value) else value for name, value in batch.items()}
            pose, betas, transl = (batch[name][:, None] for name in ("pose", "betas", "transl"))  # one hypothesis each
            labels = as_hypotheses(self.body, pose, betas, transl, batch["intrinsics"])
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
                raw = self.scorer(batch["image"], labels)[1][:, 0].float()  # (N,)
            if not raw.isfinite().all():
                key = batch["key"][int((~raw.isfinite()).nonzero()[0, 0])]
                raise AdhmrError(f"{self.config.scorer}: the score of {reader.name}, sample {key}, is not a number")
            scores[(batch["position"] - rows.start).cpu().numpy()] = raw.cpu().numpy()
        return scores
