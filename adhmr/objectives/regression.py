"""Parts of the regressor's loss: rotations, 3-D joints about the pelvis, projected joints. That of the shape is
`betas_loss` of denoising.py, those of the encoder's heat-maps and depths are there too.

Their weights are adhmr.config.losses.RegressionWeights.
"""

import torch
from torch import Tensor

from adhmr.body.camera import project

#: No joint of a person is nearer to the camera: a wrong early prediction must not divide by nothing.
NEAREST = 0.1  # metres


def rotation_weight(has_pose: Tensor, twist_weight: Tensor) -> Tensor:
    """Which rotations count (N, 24): a joint's as its twist does, the root's as the surest twist.

    has_pose (N,), twist_weight (N, 23, 2): a set that does not supervise twists has no rotations to learn either.
    """
    joints = twist_weight[..., 0]
    return torch.cat([joints.amax(1, keepdim=True), joints], 1) * has_pose[:, None].to(joints)


def rotation_loss(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean over joints and images of the squared Frobenius distance; both (N, 24, 3, 3), weight (N, 24)."""
    square = (predicted.float() - target.float()).square().sum((-1, -2))
    return (weight * square).sum() / weight.sum().clamp_min(1.0)


def joints3d_loss(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean over joints of the absolute difference (sum of x, y, z), metres, after the pelvises are put on each other.

    predicted and target (N, 29, 3), weight (N, 29); images whose pelvis has no weight do not count.
    """
    difference = (predicted - predicted[:, :1]).float() - (target - target[:, :1]).float()
    weight = weight * (weight[:, :1] > 0)
    return (weight * difference.abs().sum(-1)).sum() / weight.sum().clamp_min(1.0)


def projection_loss(joints: Tensor, intrinsics: Tensor, target: Tensor, weight: Tensor, size: int) -> Tensor:
    """Mean over joints of the absolute difference (sum of x and y) in half crops.

    joints (N, 29, 3) metres in the camera's frame, intrinsics (N, 3, 3) of the crop, target (N, 29, 2) pixels of the
    crop of `size`, weight (N, 29).
    """
    before = torch.cat([joints[..., :2], joints[..., 2:].clamp_min(NEAREST)], -1)
    difference = (project(before, intrinsics) - target).abs().sum(-1) * (2.0 / size)
    return (weight * difference.clamp_max(10.0)).sum() / weight.sum().clamp_min(1.0)
