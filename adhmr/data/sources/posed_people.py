"""Bodies of people posed, many at once: their joints, and pose, shape and twists for the body that the shards are for.

What else a label needs is in labels.py, the bodies are in bodies.py."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import roma
import torch
from torch import Tensor

from adhmr.body.kinematics import swing_twist
from adhmr.data.sources.bodies import BodyFiles, fitted_betas
from adhmr.data.sources.person import MeshLabel, Person, SmplLabel, SmplxLabel


def _stack(parts: Sequence[np.ndarray | None], shape: tuple[int, ...]) -> Tensor:
    zero = np.zeros(shape, np.float32)
    rows = [zero if part is None else np.asarray(part, np.float32).reshape(shape) for part in parts]
    return torch.from_numpy(np.nan_to_num(np.stack(rows)))


def pose_people(people: list[Person], records: np.ndarray, bodies: BodyFiles) -> list[np.ndarray | None]:
    """Joints (29, 3) in the camera's frame of people whose bodies are of one kind and gender, None where they have no
    body; fills pose, shape, place and twists of their records."""
    if isinstance(people[0].body, SmplLabel):
        return _pose_smpl(people, records, bodies)
    if isinstance(people[0].body, SmplxLabel):
        return _pose_smplx(people, records, bodies)
    if isinstance(people[0].body, MeshLabel):
        return _joints_of_meshes(people, bodies)
    return [None] * len(people)


def _pose_smpl(people: list[Person], records: np.ndarray, bodies: BodyFiles) -> list[np.ndarray]:
    """Joints (29, 3) of each posed body; fills pose, shape and twists of the records."""
    body, target = bodies.smpl_of(people[0].body.gender), bodies.target()
    pose = _stack([person.body.pose for person in people], (24, 3))
    betas = _stack([person.body.betas for person in people], (10,))
    transl = _stack([person.body.transl for person in people], (3,))
    rotations = roma.rotvec_to_rotmat(pose)
    rest = body.rest_joints29(betas)
    joints = body.joints29(rotations, betas, transl)
    records["twists"] = swing_twist(rotations, rest)
    pose[:, 0], joints = _in_camera(people, pose[:, 0], joints)
    records["pose"] = pose
    if body is not target:
        betas, _ = fitted_betas(target, rest)
    records["betas"] = betas
    # Pelvis on pelvis: bodies differ in where their root lies in the rest pose.
    records["transl"] = joints[:, 0] - target.rest_joints29(betas)[:, 0]
    for flag in ("has_pose", "has_twists"):
        records[flag] = 1
    known, labels = bodies.knows_smpl(people[0].body.gender), [person.body for person in people]
    records["has_betas"] = [label.betas is not None and (known or label.neutral_otherwise) for label in labels]
    return list(joints.numpy())


def _pose_smplx(people: list[Person], records: np.ndarray, bodies: BodyFiles) -> list[np.ndarray]:
    """The same of SMPL-X. Its 21 body rotations are SMPL's; SMPL's two hand joints, which SMPL-X has not, stay at rest,
    and so their twists are unknown."""
    body, target = bodies.smplx_of(people[0].body.gender), bodies.target()
    labels = [person.body for person in people]
    root, inner = _stack([label.root for label in labels], (1, 3)), _stack([label.body for label in labels], (21, 3))
    hands, jaw = _stack([label.hands for label in labels], (2, 45)), _stack([label.jaw for label in labels], (3,))
    flat = torch.tensor([label.flat_hands and label.hands is not None for label in labels])
    hands = hands - flat[:, None, None] * body.mean_hands
    betas, transl = _stack([label.betas for label in labels], (10,)), _stack([label.transl for label in labels], (3,))
    expression = _stack([label.expression for label in labels], (10,))
    vector = torch.cat([root.flatten(1), inner.flatten(1), hands.flatten(1), jaw], 1)  # (B, 159)
    joints = body(body.rotations_of_pose(vector), betas, expression, transl).joints29
    rest = body(torch.eye(3).expand(len(people), 55, 3, 3), betas, expression).joints29
    pose = torch.cat([root, inner, inner.new_zeros(len(people), 2, 3)], 1)  # (B, 24, 3)
    own_betas, _ = fitted_betas(target, rest)
    records["twists"] = swing_twist(roma.rotvec_to_rotmat(pose), rest)
    pose[:, 0], joints = _in_camera(people, pose[:, 0], joints)
    records["pose"], records["betas"] = pose, own_betas
    records["transl"] = joints[:, 0] - target.rest_joints29(own_betas)[:, 0]
    for flag in ("has_pose", "has_twists"):
        records[flag] = 1
    known = bodies.knows_smplx(labels[0].gender)
    records["has_betas"] = [known and label.betas is not None for label in labels]
    return list(joints.numpy())


def _in_camera(people: list[Person], roots: Tensor, joints: Tensor) -> tuple[Tensor, Tensor]:
    """Axis-angle of the roots (B, 3) and joints (B, 29, 3) of bodies that were posed in the world, in the cameras'."""
    if all(person.extrinsics is None for person in people):
        return roots, joints
    matrices = [np.eye(3, 4) if person.extrinsics is None else person.extrinsics for person in people]
    turn, shift = torch.from_numpy(np.stack(matrices).astype(np.float32)).split([3, 1], -1)  # (B, 3, 3), (B, 3, 1)
    roots = roma.rotmat_to_rotvec(turn @ roma.rotvec_to_rotmat(roots))
    return roots, joints @ turn.mT + shift.mT


def _joints_of_meshes(people: list[Person], bodies: BodyFiles) -> list[np.ndarray | None]:
    """Joints (29, 3) of registered meshes, without pose and shape; None for a mesh of another body."""
    body = bodies.smplx_of(people[0].body.gender)
    shape = (body.num_vertices, 3)
    fits = [np.shape(person.body.vertices) == shape for person in people]
    vertices = _stack([one.body.vertices if fit else None for one, fit in zip(people, fits, strict=True)], shape)
    _, joints = _in_camera(people, vertices.new_zeros(len(people), 3), body.joints29_of_mesh(vertices))
    return [found if fit else None for found, fit in zip(joints.numpy(), fits, strict=True)]
