"""What an evaluation protocol does to a set and to the hypotheses of an image: which samples, which root depth, which
further candidates. The switches are in adhmr.config.protocol; joints and alignment in adhmr.preference.mesh_errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from adhmr.body.body_model import BodyModel, JointRegressor
from adhmr.body.hypotheses import Hypotheses
from adhmr.body.root_depth import estimate_root_depth
from adhmr.body.skeleton import H36M_NAMES
from adhmr.config.evaluation import EvaluateStage
from adhmr.config.protocol import ProtocolConfig
from adhmr.config.regressor import RegressorsStage
from adhmr.errors import AdhmrError
from adhmr.preference.hypotheses import pose_hypotheses
from adhmr.preference.mesh_errors import AnnotatedJoints

TOP = 5  # hypotheses in the mean that stands for the scorer's choice


def rows_of(protocol: ProtocolConfig, size: int, limit: int | None) -> range:
    """The rows of a set of `size` samples that are evaluated."""
    return range(0, size, protocol.stride)[:limit]


def load_regressor(config: EvaluateStage | RegressorsStage, body: BodyModel) -> JointRegressor | None:
    """The regressor of Human3.6M's joints, where the protocol counts them; raises AdhmrError for one of other joints or
    another body."""
    if config.regressor is None:
        return None
    regressor = JointRegressor.load(config.regressor, body)
    if len(regressor.matrix) != len(H36M_NAMES):
        found = len(regressor.matrix)
        raise AdhmrError(f"{config.regressor}: gives {found} joints, expected Human3.6M's {len(H36M_NAMES)}")
    return regressor


def annotated_joints(
    protocol: ProtocolConfig, regressor: JointRegressor | None, batch: dict[str, Any]
) -> AnnotatedJoints | None:
    """What joint errors are counted on, None for the skeleton's own; raises AdhmrError for labels without joints17."""
    if regressor is None:
        return None
    lacking = [key for key, has in zip(batch["key"], batch["has_joints17"].tolist(), strict=True) if not has]
    if lacking:
        place = f"{batch['dataset'][0]}, sample {lacking[0]}"
        raise AdhmrError(f"{place}: its label has no joints17; protocol {protocol.name} needs it, smpl24 does not")
    return AnnotatedJoints(regressor, batch["joints17"], protocol.pa_joints)


def posed(
    config: EvaluateStage, body: BodyModel, hypotheses: Hypotheses, betas: Tensor, batch: dict[str, Any]
) -> Hypotheses:
    """The hypotheses with their rotations, at the root depth that the protocol asks for."""
    intrinsics, depth = batch["intrinsics"], batch["root_depth"]
    if config.protocol.root == "estimated":
        depth = estimate_root_depth(body, hypotheses, betas, intrinsics, config.ik)
    return hypotheses._replace(rotations=pose_hypotheses(body, hypotheses, betas, intrinsics, depth, config.ik))


def mean_hypothesis(hypotheses: Hypotheses) -> Hypotheses:
    """(N, 1, ...): joints and raw twist vectors averaged."""
    return Hypotheses(hypotheses.uvd.mean(1, keepdim=True), hypotheses.twists.mean(1, keepdim=True))


def top_hypothesis(hypotheses: Hypotheses, scores: Tensor) -> Hypotheses:
    """(N, 1, ...): the released code's choice by scores (N, M): the mean joints of the five highest and the mean of
    their twist angles.

    Angles are taken from (-90, 270) degrees and averaged as numbers, so that two on either side of -90 meet 180 degrees
    off. It is kept because the published figures have it.
    """
    best = scores.topk(min(TOP, scores.shape[1]), 1).indices  # (N, 5)
    uvd = hypotheses.uvd.take_along_dim(best[..., None, None], 1)
    twists = hypotheses.twists.take_along_dim(best[..., None, None], 1)
    angles = torch.atan2(twists[..., 1], twists[..., 0])
    angles = torch.where(angles < -math.pi / 2, angles + 2 * math.pi, angles).mean(1, keepdim=True)  # (N, 1, 23)
    return Hypotheses(uvd.mean(1, keepdim=True), torch.stack([angles.cos(), angles.sin()], -1))


def official_candidates(hypotheses: Hypotheses, scores: Tensor, counts: Sequence[int]) -> Hypotheses:
    """(N, 2 K, ...): for each M of the K `counts` the two further candidates of the released code, made of the first M
    hypotheses: the scorer's choice and the mean."""
    made = []
    for count in counts:
        first = Hypotheses(hypotheses.uvd[:, :count], hypotheses.twists[:, :count])
        made += [top_hypothesis(first, scores[:, :count]), mean_hypothesis(first)]
    return Hypotheses(torch.cat([h.uvd for h in made], 1), torch.cat([h.twists for h in made], 1))
