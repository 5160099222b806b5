"""Forward and inverse kinematics of the joint tree, batched; the only loops are over the tree's eight levels.

Inverse kinematics takes joint positions and twists to local rotations (HybrIK, Li et al. 2021, sections 3.2 and 3.3).
Skinning is in body_model.py.
"""

from typing import Literal

import roma
import torch
from torch import Tensor
from torch.nn.functional import normalize

from adhmr.body.skeleton import LEVELS, MAIN_CHILD, NUM_BODY_JOINTS, PARENTS

_ROOT_CHILDREN = (1, 2, 3)
_HIPS = (1, 2)
_SPINE = 3
_MAX_ADAPTIVE_DEVIATION = 0.015
"""Metres. Adaptive inverse kinematics follows a target further off than this by its raw bone direction."""
_SMALLEST_SUM = 1e-6
"""Unit vectors with a shorter sum are opposite."""


def _offsets(joints: Tensor) -> Tensor:
    """(B, 29, 3) positions -> (B, 28, 3) vectors from each joint's parent; row j - 1 belongs to joint j."""
    return joints[:, 1:] - joints[:, list(PARENTS[1 : joints.shape[1]])]


def _main_bones(joints29: Tensor) -> Tensor:
    """(B, 29, 3) -> (B, 23, 3): from each of the joints 1..23 to its main child."""
    return joints29[:, list(MAIN_CHILD[1:NUM_BODY_JOINTS])] - joints29[:, 1:NUM_BODY_JOINTS]


def _apply(rotations: Tensor, vectors: Tensor) -> Tensor:
    return (rotations @ vectors.unsqueeze(-1)).squeeze(-1)


def _parents_in_level(level: int) -> list[int]:
    """Places of the parents of a level's joints within the level above."""
    return [PARENTS[joint] - LEVELS[level - 1][0] for joint in LEVELS[level]]


def _bisector_of_far_directions(source: Tensor, half: Tensor) -> Tensor:
    """Unit bisector of two unit vectors more than 90 degrees apart, from their sum, however near it is to zero.

    The part of the sum along the source is smaller than its rounding error there, so it is written down anew.
    """
    least = torch.nn.functional.one_hot(source.abs().argmin(dim=-1), 3).to(source)
    any_across = torch.linalg.cross(source, least)
    length = half.norm(dim=-1, keepdim=True)
    across = torch.where(length < _SMALLEST_SUM, any_across, half)
    for _ in range(2):  # the first pass leaves the source's own rounding error, large beside a short sum
        across = normalize(across - (across * source).sum(-1, keepdim=True) * source, dim=-1)
    cosine = length / 2
    return cosine * source + (1 - cosine.square()).clamp_min(0).sqrt() * across


def minimal_rotation(source: Tensor, target: Tensor) -> Tensor:
    """The rotation by the least angle that takes one direction to another.

    It is two half turns, about the source and then about the bisector of both. This is a rotation for any bisector, so
    it stays valid where source and target point opposite ways; the axis is then any one across the source.

    Args:
        source: (..., 3) of any length above zero.
        target: (..., 3) of any length above zero.

    Returns:
        (..., 3, 3).
    """
    source, target = normalize(source, dim=-1), normalize(target, dim=-1)
    half = source + target
    towards = (source * target).sum(-1, keepdim=True) > 0
    half = normalize(torch.where(towards, half, _bisector_of_far_directions(source, half)), dim=-1)

    identity = torch.eye(3, dtype=source.dtype, device=source.device)
    about_source = 2 * source.unsqueeze(-1) * source.unsqueeze(-2) - identity
    about_half = 2 * half.unsqueeze(-1) * half.unsqueeze(-2) - identity
    return about_half @ about_source


def forward_kinematics(rotations: Tensor, rest_joints: Tensor) -> tuple[Tensor, Tensor]:
    """Pose the joint tree about the root's rest position.

    Args:
        rotations: (B, 24, 3, 3) local rotations.
        rest_joints: (B, 24 or more, 3); further joints are left out.

    Returns:
        global rotations (B, 24, 3, 3) and joints (B, 24, 3) in the rest joints' unit.
    """
    offsets = _offsets(rest_joints[:, :NUM_BODY_JOINTS])
    level_rotations, level_joints = [rotations[:, :1]], [rest_joints[:, :1]]
    for level in range(1, len(LEVELS)):
        joints, parents = list(LEVELS[level]), _parents_in_level(level)
        parent_rotations = level_rotations[-1][:, parents]
        moved = _apply(parent_rotations, offsets[:, [joint - 1 for joint in joints]])
        level_joints.append(level_joints[-1][:, parents] + moved)
        level_rotations.append(parent_rotations @ rotations[:, joints])
    return torch.cat(level_rotations, dim=1), torch.cat(level_joints, dim=1)


def swing_twist(rotations: Tensor, rest_joints29: Tensor) -> Tensor:
    """Twist of each joint about the bone to its main child: R = S T with S the minimal rotation of the bone.

    Args:
        rotations: (B, 24, 3, 3) local rotations.
        rest_joints29: (B, 29, 3).

    Returns:
        (B, 23, 2): cosine and sine for the joints 1..23.
    """
    local = rotations[:, 1:]
    bones = normalize(_main_bones(rest_joints29), dim=-1)
    swings = minimal_rotation(bones, _apply(local, bones))
    twists = swings.transpose(-1, -2) @ local
    cosine = (twists.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    skew = torch.stack(
        [
            twists[..., 2, 1] - twists[..., 1, 2],
            twists[..., 0, 2] - twists[..., 2, 0],
            twists[..., 1, 0] - twists[..., 0, 1],
        ],
        dim=-1,
    )
    return torch.stack([cosine, (skew * bones).sum(-1) / 2], dim=-1)


def _twist_rotations(bones: Tensor, twists: Tensor) -> Tensor:
    """Rotations about the rest bones (B, 23, 3) by (cosine, sine) of any common length: (B, 23, 3, 3)."""
    angles = torch.atan2(twists[..., 1], twists[..., 0])
    return roma.rotvec_to_rotmat(angles.unsqueeze(-1) * normalize(bones, dim=-1))


def _root_by_spine_and_hips(target_offsets: Tensor, rest_offsets: Tensor) -> Tensor:
    """Put the spine bone on its target, then turn about it until the middle of the hips is on its target's side."""
    spine = target_offsets[:, _SPINE - 1]
    onto_spine = minimal_rotation(rest_offsets[:, _SPINE - 1], spine)
    hips = [joint - 1 for joint in _HIPS]
    axis = normalize(spine, dim=-1)
    source = _apply(onto_spine, rest_offsets[:, hips].mean(1))
    target = target_offsets[:, hips].mean(1)
    # Only parts across the axis count: the cosine needs them cut out, the sine along the axis does not see the rest.
    source = source - (source * axis).sum(-1, keepdim=True) * axis
    target = target - (target * axis).sum(-1, keepdim=True) * axis
    sine = (torch.linalg.cross(source, target) * axis).sum(-1)
    cosine = (source * target).sum(-1)
    about_spine = roma.rotvec_to_rotmat(torch.atan2(sine, cosine).unsqueeze(-1) * axis)
    return about_spine @ onto_spine


def _root_by_procrustes(target_offsets: Tensor, rest_offsets: Tensor) -> Tensor:
    """The rotation that best takes the root's three rest bones to their targets."""
    children = [joint - 1 for joint in _ROOT_CHILDREN]
    covariance = target_offsets[:, children].transpose(-1, -2) @ rest_offsets[:, children]
    return roma.special_procrustes(covariance)


def inverse_kinematics(
    joints29: Tensor,
    twists: Tensor,
    rest_joints29: Tensor,
    method: Literal["naive", "adaptive"] = "naive",
) -> Tensor:
    """Local rotations that put the bones on the target joints' bones, with the given twists.

    `naive` takes directions from the targets only, so that it is indifferent to their scale. `adaptive` aims each bone
    from where its joint has come to lie so that errors do not add up along a limb, unless this differs by more than
    15 mm from the target bone; it needs metres.

    Args:
        joints29: (B, 29, 3) targets; the root's position does not matter.
        twists: (B, 23, 2) cosine and sine; their length does not matter.
        rest_joints29: (B, 29, 3), or (1, 29, 3) for all.
        method: see above.

    Returns:
        (B, 24, 3, 3) local rotations.
    """
    batch = len(joints29)
    rest_joints29 = rest_joints29.expand(batch, -1, -1)
    rest_offsets, target_offsets = _offsets(rest_joints29), _offsets(joints29)
    rest_bones, target_bones = _main_bones(rest_joints29), _main_bones(joints29)
    twist_rotations = _twist_rotations(rest_bones, twists)
    adaptive = method == "adaptive"
    if adaptive:
        root = _root_by_procrustes(target_offsets, rest_offsets)
        positions = joints29 - joints29[:, :1]
        lengths = rest_bones.norm(dim=-1, keepdim=True)
        raw_bones = normalize(target_bones, dim=-1) * lengths
    else:
        root = _root_by_spine_and_hips(target_offsets, rest_offsets)

    local, above = [root.unsqueeze(1)], root.unsqueeze(1)
    reached = torch.zeros_like(joints29[:, :1])
    for level in range(1, len(LEVELS)):
        joints, parents = list(LEVELS[level]), _parents_in_level(level)
        rows = [joint - 1 for joint in joints]
        parent_rotations = above[:, parents]
        bones = target_bones[:, rows]
        if adaptive:
            reached = reached[:, parents] + _apply(parent_rotations, rest_offsets[:, rows])
            aimed = positions[:, [MAIN_CHILD[joint] for joint in joints]] - reached
            raw = raw_bones[:, rows]
            too_far = (aimed - raw).norm(dim=-1, keepdim=True) > _MAX_ADAPTIVE_DEVIATION
            bones = torch.where(too_far, raw, aimed)
        swings = minimal_rotation(rest_bones[:, rows], _apply(parent_rotations.transpose(-1, -2), bones))
        rotations = swings @ twist_rotations[:, rows]
        local.append(rotations)
        above = parent_rotations @ rotations
    return torch.cat(local, dim=1)
