"""The pictures of a report: on each line of a sheet one image, its label and each model's zero-noise hypothesis, from
the camera and the side, with errors. Which images are shown is decided in example_choice.py."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import roma
import torch

from adhmr.body.body_model import BodyModel
from adhmr.body.metrics import vertex_error
from adhmr.config.evaluation import EvaluatedModel, ReportStage
from adhmr.data.shard_reader import ShardReader
from adhmr.data.stream import Batch, iterate_set
from adhmr.data.transforms import LabelledCrop
from adhmr.evaluation.example_choice import Examples
from adhmr.models.weights import load_model
from adhmr.preference.hypotheses import fresh_noise, hypothesis_noise, place_bodies, pose_hypotheses, sample_hypotheses
from adhmr.visualization.drawing import captioned, grid
from adhmr.visualization.rasterizer import render_mesh, render_mesh_side

PICTURE_SIZE = 224  # pixels a side of each picture
IMAGES_PER_BATCH = 16
TRUTH_COLOUR, MODEL_COLOURS = (
    (140.0, 195.0, 140.0),
    ((230.0, 165.0, 110.0), (110.0, 165.0, 240.0), (205.0, 140.0, 215.0)),
)


class ExampleDrawer:
    """Draws images of a data set with their label and the hypotheses of the compared models."""

    def __init__(self, config: ReportStage, reader: ShardReader):
        self.config, self.reader = config, reader
        self.body = BodyModel(config.body)
        self.models = [(compared, load_model(compared.weights, "base")) for compared in config.compared]

    def sheets(self, chosen: Sequence[Examples]) -> dict[str, np.ndarray]:
        """Name of the examples -> (H, W, 3) uint8. An image that is in several of them is drawn once."""
        rows = sorted({row for examples in chosen for row in examples.rows})
        lines: dict[int, list[np.ndarray]] = {}
        crop = LabelledCrop(self.config.crop, None)
        for start in range(0, len(rows), IMAGES_PER_BATCH):
            some = rows[start : start + IMAGES_PER_BATCH]
            batch = next(iterate_set(self.reader, crop, len(some), rows=some))
            lines |= zip(some, self._lines(batch))
        return {
            examples.name: grid([cell for row in examples.rows for cell in lines[row]], len(lines[examples.rows[0]]))
            for examples in chosen
        }

    @torch.no_grad()
    def _lines(self, batch: Batch) -> list[list[np.ndarray]]:
        """For each image of a batch its pictures, in the order of a sheet's columns."""
        scale = PICTURE_SIZE / self.config.crop.size
        intrinsics = batch["intrinsics"].clone()
        intrinsics[:, :2] *= scale  # the pictures are larger than the network's crop
        crops = batch["image"].permute(0, 2, 3, 1).numpy()  # (n, S, S, 3)
        images = [cv2.resize(c, (PICTURE_SIZE, PICTURE_SIZE), interpolation=cv2.INTER_CUBIC) for c in crops]
        truth = self.body(roma.rotvec_to_rotmat(batch["pose"]), batch["betas"], batch["transl"])
        lines = [[captioned(image, key)] for image, key in zip(images, batch["key"])]
        meshes = [("truth", truth.vertices, None, TRUTH_COLOUR)]
        for number, (compared, model) in enumerate(self.models):
            posed = self._zero_noise(compared, model, batch)
            pelvis, target = posed.joints29[:, 0], truth.joints29[:, 0]
            error = 1000.0 * vertex_error(posed.vertices, truth.vertices, pelvis, target)  # (n,) millimetres
            meshes.append((compared.name, posed.vertices, error, MODEL_COLOURS[number % len(MODEL_COLOURS)]))
        for name, vertices, error, colour in meshes:
            for n, line in enumerate(lines):
                mesh = vertices[n].numpy()
                seen = render_mesh(images[n], mesh, self.body.faces, intrinsics[n].numpy(), colour)
                side = render_mesh_side(mesh, self.body.faces, PICTURE_SIZE, colour)
                figure = "" if error is None else f": PVE {error[n]:.0f} mm"
                line += [captioned(seen, f"{name}{figure}"), captioned(side, f"{name}, side")]
        return lines

    def _zero_noise(self, compared: EvaluatedModel, model: torch.nn.Module, batch: Batch):
        """The posed bodies of a model's zero-noise hypotheses; a pelvis stands where the model sees it, at the label's
        depth."""
        config = self.config
        features = model.encoder(batch["image"])
        noise, fresh = hypothesis_noise(config.seed, batch["key"], 1), fresh_noise(config.seed, batch["key"], 1)
        hypotheses = sample_hypotheses(model, features, noise, config.crop.size, "fp32", config.sampler, fresh)
        placing = features.betas, batch["intrinsics"], batch["root_depth"]
        rotations = pose_hypotheses(self.body, hypotheses, *placing, config.ik)[:, 0]
        transl = place_bodies(self.body, hypotheses, *placing)[:, 0]  # (n, 3) metres
        return self.body(rotations, features.betas, transl)
