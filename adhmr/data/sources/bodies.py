"""The bodies that a conversion reads labels with: the one that the shards are for, and those of the annotations.

Also how a shape moves from one body to another. What labels become is in labels.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from adhmr.body.body_model import BodyModel, body_hash
from adhmr.body.smplx_body import SmplxBody
from adhmr.errors import AdhmrError

RIDGE = 1e-4  # square metres for a beta of 1: bodies place their joints a centimetre apart, so no less is believed


@dataclass(frozen=True)
class BodyFiles:
    """Body files of a conversion. `own`: of the labels in the shards, null for the open body.

    smpl, smplx: of the genders (male, female, neutral) that annotations name. A gender without a file of its own is
    read with `own`, or with SMPL-X's neutral body; its shapes are then unknown, for betas mean something else there.
    """

    own: Path | None = None
    smpl: Mapping[str, Path] = field(default_factory=dict)
    smplx: Mapping[str, Path] = field(default_factory=dict)

    def hashes(self) -> dict[str, str]:
        """What the labels depend on, by name."""
        files = {f"smpl {gender}": path for gender, path in self.smpl.items()}
        files |= {f"smplx {gender}": path for gender, path in self.smplx.items()}
        return {"body": body_hash(self.own)} | {name: body_hash(path) for name, path in files.items()}

    def target(self) -> BodyModel:
        """The body that the labels in the shards are for."""
        return _smpl(self.own)

    def smpl_of(self, gender: str) -> BodyModel:
        """The body that SMPL parameters of this gender pose."""
        return _smpl(self.smpl.get(gender, self.own))

    def knows_smpl(self, gender: str) -> bool:
        """Whether shapes of this gender's SMPL body can be told."""
        return gender == "neutral" or gender in self.smpl

    def knows_smplx(self, gender: str) -> bool:
        """The same of SMPL-X."""
        return gender == "neutral" or gender in self.smplx

    def smplx_of(self, gender: str) -> SmplxBody:
        """Raises AdhmrError when no SMPL-X file was given."""
        path = self.smplx.get(gender, self.smplx.get("neutral"))
        if path is None:
            raise AdhmrError(
                f"these annotations are SMPL-X parameters of a {gender} body: give its file with --smplx "
                "(SMPLX_NEUTRAL.npz, see docs/body.md)"
            )
        return _smplx(path)


@lru_cache
def _smpl(path: Path | None) -> BodyModel:
    return BodyModel(path)


@lru_cache
def _smplx(path: Path) -> SmplxBody:
    return SmplxBody(path, "smpl")


@torch.no_grad()
def fitted_betas(body: BodyModel | SmplxBody, rest: Tensor) -> tuple[Tensor, Tensor]:
    """The shape of `body` whose unposed joints are nearest to rest joints (B, 29, 3) of another body, root on root.

    Joints are linear in the shape, so this is one ridge regression. Bone lengths say much about size and proportions
    and little about weight, which stays near the mean.

    Returns:
        betas (B, 10) and the mean distance of the joints that is left, (B,) metres.
    """
    zero = body.rest_joints29(rest.new_zeros(1, 10))
    directions = body.rest_joints29(torch.eye(10)) - zero  # (10, 29, 3)
    zero, directions = zero - zero[:, :1], directions - directions[:, :1]
    matrix = directions.flatten(1)  # (10, 87)
    wanted = (rest - rest[:, :1] - zero).flatten(1)  # (B, 87)
    normal = matrix @ matrix.T + RIDGE * torch.eye(10)
    betas = torch.linalg.solve(normal, matrix @ wanted.T).T
    left = (wanted - betas @ matrix).unflatten(1, (29, 3)).norm(dim=-1).mean(1)
    return betas, left
