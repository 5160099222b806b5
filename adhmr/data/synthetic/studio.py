"""One domain's samples, one after another: pose, place, paint, label.

Bodies are posed in chunks of a fixed size, because the last bit of a matrix product may depend on how many are
multiplied at once, and a sample must depend on (seed, set, split, its number) and on nothing else. Files are `build`'s.
"""

from collections.abc import Iterator

import numpy as np
import roma
import torch
from scipy.spatial.transform import Rotation

from adhmr.body.body_model import BodyModel
from adhmr.data.randomness import generator_for
from adhmr.data.synthetic import scene
from adhmr.data.synthetic.labels import exact_records, pseudo_labels
from adhmr.data.synthetic.person import PersonPainter
from adhmr.data.synthetic.poses import PoseBank, sample_betas
from adhmr.data.synthetic.sets import domain
from adhmr.visualization.rasterizer import Rasterizer

CHUNK = 50  # bodies posed at once
SHADOW_PROBABILITY = 0.6

Sample = tuple[np.ndarray, np.void, np.void, int]
"""Image (S, S, 3) uint8, label record, true record, kind of mistake in the label (labels.KIND_NAMES)."""


class Studio:
    """What drawing one domain's samples needs: body, poses, painter, buffers."""

    def __init__(self, name: str, split: str, image_size: int) -> None:
        self.spec, self.split, self.size = domain(name, split), split, image_size
        self.body = BodyModel()
        self.bank = PoseBank(split)
        rest_joints = self.body.rest_joints29(torch.zeros(1, 10))[0].numpy()
        weights = self.body.layer.lbs_weights.numpy()
        self.painter = PersonPainter(self.body.v_template.numpy(), rest_joints, weights, self.body.faces)
        self.rasterizer = Rasterizer(self.body.faces, (image_size, image_size))

    def samples(self, seed: int, first: int, count: int) -> Iterator[Sample]:
        """Samples number first, first + 1, … first + count - 1."""
        for start in range(first, first + count, CHUNK):
            rngs, vertices, labels, truth, kinds = self._people(seed, range(start, start + CHUNK))
            for row in range(min(CHUNK, first + count - start)):
                image = self._picture(rngs[row], vertices[row] + truth["transl"][row], truth[row])
                yield image, labels[row], truth[row], int(kinds[row])

    @torch.no_grad()
    def _people(
        self, seed: int, numbers: range
    ) -> tuple[list[np.random.Generator], np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """CHUNK people before their cameras: generators, vertices about the model's origin, labels, truth, kinds."""
        spec = self.spec
        rngs = [generator_for(seed, spec.name, self.split, number) for number in numbers]
        poses, betas = np.empty((CHUNK, 24, 3), np.float32), np.empty((CHUNK, 10), np.float32)
        for row, rng in enumerate(rngs):
            poses[row], betas[row] = self.bank.sample(rng, spec), sample_betas(rng)
            root = Rotation.from_rotvec(poses[row, 0])
            poses[row, 0] = (scene.view_rotation(rng, spec) * root).as_rotvec()
        vertices = self.body(roma.rotvec_to_rotmat(torch.from_numpy(poses)), torch.from_numpy(betas)).vertices.numpy()
        placed = [scene.place_person(rng, spec, v, self.size) for rng, v in zip(rngs, vertices, strict=True)]
        transl, intrinsics = (np.stack(parts).astype(np.float32) for parts in zip(*placed, strict=True))
        truth = exact_records(self.body, poses, betas, transl, intrinsics, self.size)
        if not spec.pseudo_labels:
            return rngs, vertices, truth, truth, np.zeros(CHUNK, np.uint8)
        label_rngs = [generator_for(seed, spec.name, self.split, number, "labels") for number in numbers]
        labels, kinds = pseudo_labels(label_rngs, spec, self.bank, self.body, truth)
        return rngs, vertices, labels, truth, kinds

    def _picture(self, rng: np.random.Generator, vertices_cam: np.ndarray, truth: np.void) -> np.ndarray:
        spec = self.spec
        background = scene.draw_background(rng, spec, self.size)
        if rng.random() < SHADOW_PROBABILITY:
            background = scene.draw_shadow(rng, background, truth["joints29_px"][[7, 8, 27, 28]])
        self.rasterizer.draw(vertices_cam, truth["intrinsics"])
        self.painter.paint(self.rasterizer, vertices_cam, self.painter.dress(rng), scene.draw_light(rng, spec))
        image = self.rasterizer.composite(background)
        scene.draw_occluders(rng, spec, image, truth["joints29_px"])
        return scene.expose(rng, spec, image)
