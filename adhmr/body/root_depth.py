"""How far from the camera a hypothesis stands, found from the hypothesis alone: no label and no detector is asked.

The body's size is known from its shape, so that its extent in the picture tells its distance. Inverse kinematics itself
is in kinematics.py.
"""

import torch
from torch import Tensor

from adhmr.body.body_model import BodyModel
from adhmr.body.camera import joints_from_uvd
from adhmr.body.hypotheses import Hypotheses
from adhmr.body.kinematics import inverse_kinematics
from adhmr.body.skeleton import NUM_BODY_JOINTS, PARENTS

NEAREST = 0.1
"""Metres: no joint is nearer to the camera."""


def estimate_root_depth(
    body: BodyModel,
    hypotheses: Hypotheses,
    betas: Tensor,
    intrinsics: Tensor,
    ik: str = "naive",
    iterations: int = 3,
) -> Tensor:
    """Depth of the root at which the posed body's joints fall on the hypothesis' own 2-D joints.

    The start is the depth at which the bones, back-projected, have together the length of the body's. Each iteration
    then poses the body by inverse kinematics at the depth found so far and moves it as a whole onto the 2-D joints. On
    exact projections both give the true depth.

    Args:
        body: whose joints are fitted.
        hypotheses: uvd (N, M, 29, 3) and twists (N, M, 23, 2).
        betas: (N, 10).
        intrinsics: (N, 3, 3) of the crop that uvd is in.
        ik: method of `inverse_kinematics`.
        iterations: of the refinement; each costs one inverse kinematics of all hypotheses.

    Returns:
        (N, M) metres.
    """
    uvd = hypotheses.uvd
    number, count = uvd.shape[:2]
    homogeneous = torch.cat([uvd[..., :2], torch.ones_like(uvd[..., :1])], -1)
    rays = homogeneous @ torch.linalg.inv(intrinsics)[:, None].transpose(-1, -2)  # (N, M, 29, 3), third is 1
    nearest = NEAREST - uvd[..., 2].amin(-1)  # (N, M)
    rest = body.rest_joints29(betas)[:, None].expand(-1, count, -1, -1)  # (N, M, 29, 3)
    depth = _depth_of_equal_bones(rays, uvd[..., 2:], rest).maximum(nearest)
    for _ in range(iterations):
        targets = joints_from_uvd(uvd, intrinsics, depth).flatten(0, 1)
        rotations = inverse_kinematics(targets, hypotheses.twists.flatten(0, 1), rest.flatten(0, 1), method=ik)
        joints = body.joints29(rotations, betas.repeat_interleave(count, 0))
        joints = (joints - joints[:, :1]).unflatten(0, (number, count))  # (N, M, 29, 3) behind the pelvis
        depth = (_depth_of_translation(rays, joints) - uvd[..., 0, 2]).maximum(nearest)
    return depth


def _depth_of_equal_bones(rays: Tensor, relative_depth: Tensor, rest: Tensor) -> Tensor:
    """The root depth Z at which the squared lengths of the bones, joints at rays (d + Z), sum to those at rest: (N, M).

    The 24 joints only: leaves are skin and not quite rigid.
    """
    parents = list(PARENTS[1:NUM_BODY_JOINTS])

    def bones(points: Tensor) -> Tensor:  # (N, M, 29, 3) -> (N, M, 69)
        return (points[..., 1:NUM_BODY_JOINTS, :] - points[..., parents, :]).flatten(-2)

    slope, offset = bones(rays), bones(rays * relative_depth)  # a bone is slope Z + offset
    a = slope.square().sum(-1).clamp_min(torch.finfo(rays.dtype).tiny)
    b = (slope * offset).sum(-1)
    c = offset.square().sum(-1) - bones(rest).square().sum(-1)
    return (-b + (b.square() - a * c).clamp_min(0).sqrt()) / a


def _depth_of_translation(rays: Tensor, joints: Tensor) -> Tensor:
    """Depth t_z of the translation t that best puts joints (N, M, 29, 3) on their rays: (N, M).

    A joint on its ray has X + t_x = x (Z + t_z): a regression of X - x Z on x with slope t_z, both axes sharing it.
    """
    across = rays[..., :2] - rays[..., :2].mean(-2, keepdim=True)
    wanted = joints[..., :2] - rays[..., :2] * joints[..., 2:]
    wanted = wanted - wanted.mean(-2, keepdim=True)
    variance = across.square().sum((-1, -2)).clamp_min(torch.finfo(rays.dtype).tiny)
    return (across * wanted).sum((-1, -2)) / variance
