"""Hypotheses for the scorer: copies of the ground truth, disturbed (paper section 4.2). Draws are made in the loader,
keyed by position; posing is done where the tensors are."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import roma
import torch
from torch import Tensor

from adhmr.body.body_model import BodyModel
from adhmr.body.camera import uvd_from_joints
from adhmr.body.hypotheses import Hypotheses
from adhmr.body.kinematics import swing_twist
from adhmr.body.skeleton import JOINT_NAMES, PARENTS
from adhmr.config.losses import NoiseConfig
from adhmr.preference.mesh_errors import mesh_errors

NUM_POSE, NUM_BETAS = 72, 10


def draw_pose_noise(config: NoiseConfig, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 85) float32: what to add to pose (72, radians), betas (10) and translation (3, metres)."""
    scale = np.empty((count, NUM_POSE + NUM_BETAS + 3))
    joints = np.full((count, 24, 1), config.pose)
    joints[:, 0] = config.root
    for name, size in config.joints.items():
        joints[:, JOINT_NAMES.index(name)] = size
    rest = np.array([config.betas] * NUM_BETAS + [config.translation] * 3) * np.ones((count, 1))
    if config.kind == "mixed":

        def magnitude(*shape: int) -> np.ndarray:
            return np.exp(rng.uniform(np.log(config.smallest), 0.0, shape))

        disturbed = rng.random((count, 23, 1)) < config.joint_probability
        joints[:, 1:] *= magnitude(count, 1, 1) * magnitude(count, 23, 1) * disturbed
        joints[:, :1] *= magnitude(count, 1, 1)
        rest *= magnitude(count, 1)
    scale[:, :NUM_POSE] = np.broadcast_to(joints, (count, 24, 3)).reshape(count, NUM_POSE)
    scale[:, NUM_POSE:] = rest
    drawn = rng.standard_normal(scale.shape)
    if config.chain:
        _follow_parents(drawn[:, :NUM_POSE].reshape(count, 24, 3), config.chain)
    return (scale * drawn).astype(np.float32)


def _follow_parents(drawn: np.ndarray, correlation: float) -> None:
    """Makes standard normal draws (count, 24, 3), a view, correlate along the limbs; each stays standard normal."""
    for joint in range(2, 24):  # in order down the chain; what hangs at the root is free of it
        parent = PARENTS[joint]
        if parent > 0:
            drawn[:, joint] = correlation * drawn[:, parent] + np.sqrt(1.0 - correlation**2) * drawn[:, joint]


class MeasuredHypotheses(NamedTuple):
    """What a scorer learns to rank."""

    hypotheses: Hypotheses  # with twists and rotations
    errors: Tensor  # (N, M, 4) metres, in the order of mesh_errors.ERROR_NAMES


def as_hypotheses(body: BodyModel, pose: Tensor, betas: Tensor, translation: Tensor, intrinsics: Tensor) -> Hypotheses:
    """Bodies as scorers look at them: pose (N, M, 24, 3) radians, betas (N, M, 10) and translation (N, M, 3) metres, in
    N crops with intrinsics (N, 3, 3). With twists and rotations."""
    rotations = roma.rotvec_to_rotmat(pose)
    flat_rotations, flat_betas = rotations.flatten(0, 1), betas.flatten(0, 1)
    joints = body.joints29(flat_rotations, flat_betas, translation.flatten(0, 1)).unflatten(0, pose.shape[:2])
    twists = swing_twist(flat_rotations, body.rest_joints29(flat_betas)).unflatten(0, pose.shape[:2])
    return Hypotheses(uvd_from_joints(joints, intrinsics[:, None]), twists, rotations)


@torch.no_grad()
def noised_truth(
    body: BodyModel, error_body: torch.nn.Module, batch: dict[str, Any], noise: Tensor
) -> MeasuredHypotheses:
    """Disturb the labels of a batch by `noise` (N, M, 85) and measure what that costs.

    `error_body` is `body`, or a VertexSubset of it for cheaper vertex errors.
    """
    pose = batch["pose"][:, None] + noise[..., :NUM_POSE].unflatten(-1, (24, 3))  # (N, M, 24, 3) radians
    betas = batch["betas"][:, None] + noise[..., NUM_POSE : NUM_POSE + NUM_BETAS]
    translation = batch["transl"][:, None] + noise[..., NUM_POSE + NUM_BETAS :]
    hypotheses = as_hypotheses(body, pose, betas, translation, batch["intrinsics"])
    truth = roma.rotvec_to_rotmat(batch["pose"])
    errors = mesh_errors(error_body, hypotheses.rotations, betas, truth, batch["betas"], chunk=1024)
    return MeasuredHypotheses(hypotheses, errors)
