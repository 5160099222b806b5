"""From people to bodies: crops, hypotheses of a trained base model, scores, and everything placed in the camera.

What is written of it is in outputs.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import roma
import torch
from torch import Tensor

from adhmr.body.body_model import BodyModel
from adhmr.body.camera import apply_affine, project
from adhmr.body.hypotheses import Hypotheses
from adhmr.body.root_depth import estimate_root_depth
from adhmr.body.skeleton import NUM_BODY_JOINTS
from adhmr.inference.persons import Person
from adhmr.models.scorer import score_of
from adhmr.models.weights import load_model
from adhmr.preference.hypotheses import hypothesis_noise, place_bodies, pose_hypotheses, sample_hypotheses

SMALLEST_PERSON = 0.05  # of an image's longer side: less is no finding


@dataclass
class Prediction:
    """The M hypotheses of one person: the best first with a scorer, else as sampled."""

    arrays: dict[str, np.ndarray]  # what parameters.npz holds of them; docs/inference.md names each
    vertices: np.ndarray  # (K, V, 3) of the first K: camera axes, metres


class Predictor:
    """A base model, perhaps a scorer, and a body.

    Args:
        checkpoint: weights of a base model.
        scorer: weights of a scorer, or None.
        body: a body file in SMPL's format; None for the open body.
        hypotheses: M.
        seed: of the noise, together with each person's name.
        ik: method of `inverse_kinematics`: "adaptive" or "naive".
        precision: "fp32", or "bf16" for the denoiser.
        meshes: of how many hypotheses a person the whole mesh is made.

    Raises:
        AdhmrError: weights or a body that cannot be used.
    """

    def __init__(
        self,
        checkpoint: Path,
        scorer: Path | None,
        body: Path | None,
        *,
        hypotheses: int,
        seed: int,
        ik: str,
        precision: str,
        meshes: int,
    ) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.base = load_model(checkpoint, "base").to(self.device)
        self.scorer = None if scorer is None else load_model(scorer, "scorer").to(self.device)
        self.body = BodyModel(body).to(self.device)
        self.hypotheses, self.seed, self.ik = hypotheses, seed, ik
        self.precision, self.meshes = precision, meshes

    @torch.no_grad()
    def locate(self, people: Sequence[Person], images: Sequence[np.ndarray]) -> list[Person]:
        """The same people, those of whole images with the box of their body joints: a first look at the whole image,
        so that the hypotheses come from a crop like those of training."""
        whole = [n for n, person in enumerate(people) if person.box_of == "image"]
        located = list(people)
        if not whole:
            return located
        size = self.base.config.crop_size
        features = self.base.encoder(self._crops([people[n] for n in whole], [images[n] for n in whole], size))
        noise = hypothesis_noise(self.seed, [people[n].name for n in whole], 1)
        looked = sample_hypotheses(self.base, features, noise, size, self.precision)
        for n, joints in zip(whole, looked.uvd[:, 0, :NUM_BODY_JOINTS, :2].double().cpu().numpy(), strict=True):
            to_crop = np.vstack([people[n].affine(size), [0, 0, 1]])
            points = apply_affine(np.linalg.inv(to_crop)[:2], joints)  # (24, 2) pixels of the image
            low, high = points.min(0), points.max(0)
            if (high - low).max() >= SMALLEST_PERSON * max(people[n].size):
                located[n] = replace(people[n], box=(*low.tolist(), *high.tolist()), box_of="joints")
        return located

    @torch.no_grad()
    def __call__(self, people: Sequence[Person], images: Sequence[np.ndarray]) -> list[Prediction]:
        """Hypotheses of N people; images: of each the whole image, (H, W, 3) uint8."""
        size = self.base.config.crop_size
        crop_intrinsics = self._tensor([person.crop_intrinsics(size) for person in people])  # (N, 3, 3)
        intrinsics = self._tensor([person.intrinsics for person in people])
        features = self.base.encoder(self._crops(people, images, size))
        noise = hypothesis_noise(self.seed, [person.name for person in people], self.hypotheses)
        sampled = sample_hypotheses(self.base, features, noise, size, self.precision)
        root_depth = estimate_root_depth(self.body, sampled, features.betas, crop_intrinsics, self.ik)  # (N, M) metres
        rotations = pose_hypotheses(self.body, sampled, features.betas, crop_intrinsics, root_depth, self.ik)
        sampled = sampled._replace(rotations=rotations)
        transl = place_bodies(self.body, sampled, features.betas, crop_intrinsics, root_depth)  # (N, M, 3)
        raw = None if self.scorer is None else self._raw_scores(people, images, sampled, size)
        predictions = []
        for n, person in enumerate(people):
            order = torch.arange(self.hypotheses, device=self.device)
            if raw is not None:
                order = torch.argsort(raw[n], descending=True, stable=True)
            posed = rotations[n, order], features.betas[n : n + 1], transl[n, order]
            joints = self.body.joints29(*posed)  # (M, 29, 3)
            arrays = {
                "hypothesis": order,
                "rotations": posed[0],
                "pose": roma.rotmat_to_rotvec(posed[0]),
                "betas": features.betas[n],
                "transl": posed[2],
                "joints29": joints,
                "joints29_px": project(joints, intrinsics[n]),
                "uvd": sampled.uvd[n, order],
                "twists": sampled.twists[n, order],
                **({} if raw is None else {"raw_scores": raw[n, order], "scores": score_of(raw[n, order])}),
                "root_depth": root_depth[n, order],
                "intrinsics": intrinsics[n],
                "crop_intrinsics": crop_intrinsics[n],
                "crop_affine": self._tensor(person.affine(size)),
            }
            shown = (posed[0][: self.meshes], posed[1], posed[2][: self.meshes])
            vertices = self.body(*shown).vertices.cpu().numpy()
            predictions.append(Prediction({name: value.cpu().numpy() for name, value in arrays.items()}, vertices))
        return predictions

    def _raw_scores(
        self, people: Sequence[Person], images: Sequence[np.ndarray], sampled: Hypotheses, size: int
    ) -> Tensor:
        """(N, M). The scorer looks at crops of its own resolution (a tall crop's width is that of its square
        content), cut from the image itself."""
        own_size = self.scorer.config.crop_shape[1]
        scale = own_size / size
        uvd = sampled.uvd * torch.tensor([scale, scale, 1.0], device=self.device)
        return self.scorer(self._crops(people, images, own_size), sampled._replace(uvd=uvd))[1].float()

    def _crops(self, people: Sequence[Person], images: Sequence[np.ndarray], size: int) -> Tensor:
        """(N, 3, size, size) uint8."""
        crops = np.stack([person.crop(image, size) for person, image in zip(people, images, strict=True)])
        return torch.from_numpy(crops).permute(0, 3, 1, 2).to(self.device)

    def _tensor(self, values: np.ndarray | Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.asarray(values, np.float32)).to(self.device)
