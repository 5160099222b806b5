"""Labels of synthetic people: exact records, and pseudo-labels with the mistakes that estimators make.

Pseudo-labels stand in for those of in-the-wild data sets: mostly small errors of varying size, some left-right swaps,
limbs flipped in depth, and gross failures. Every field of a record follows from its own pose, right or wrong.
"""

from dataclasses import dataclass

import numpy as np
import roma
import torch
from scipy.spatial.transform import Rotation

from adhmr.body.body_model import BodyModel
from adhmr.body.camera import project
from adhmr.body.kinematics import inverse_kinematics, swing_twist
from adhmr.body.skeleton import FLIP_TWISTS, NUM_TWISTS, PARENTS
from adhmr.data.schema import SAMPLE_DTYPE
from adhmr.data.synthetic.poses import PoseBank
from adhmr.data.synthetic.scene import view_rotation
from adhmr.data.synthetic.sets import DomainSpec

MILD, SWAPPED, DEPTH_FLIPPED, GROSS = range(4)
KIND_NAMES = ("mild", "left-right swap", "depth flip", "gross failure")
KIND_ODDS = (0.79, 0.08, 0.08, 0.05)

# Joints below the shoulder or the hip, in order down the limb.
LEFT_ARM, RIGHT_ARM = (18, 20, 22, 25), (19, 21, 23, 26)
LEFT_LEG, RIGHT_LEG = (4, 7, 10, 27), (5, 8, 11, 28)
LIMBS = (LEFT_ARM, RIGHT_ARM, LEFT_LEG, RIGHT_LEG)

NOISE_LEVEL = (0.02, 0.15)  # radians a joint, log-uniform over people
DEPTH_NOISE, PIXEL_NOISE, BETAS_NOISE = 0.04, 0.006, 0.35  # of the distance, of the image side, of betas


def exact_records(
    body: BodyModel, pose: np.ndarray, betas: np.ndarray, transl: np.ndarray, intrinsics: np.ndarray, image_size: int
) -> np.ndarray:
    """Records (N,) SAMPLE_DTYPE of pose (N, 24, 3), betas (N, 10), transl (N, 3), intrinsics (N, 3, 3). They have no
    joints17: no data set annotated them."""
    pose, betas, transl = (torch.from_numpy(np.asarray(array, np.float32)) for array in (pose, betas, transl))
    rotations = roma.rotvec_to_rotmat(pose)  # (N, 24, 3, 3)
    joints29 = body.joints29(rotations, betas, transl)  # (N, 29, 3)
    records = np.zeros(len(pose), SAMPLE_DTYPE)
    records["pose"], records["betas"], records["transl"] = pose, betas, transl
    records["joints29"] = joints29
    records["intrinsics"] = intrinsics
    records["joints29_px"] = project(joints29, torch.from_numpy(records["intrinsics"]))
    records["twists"] = swing_twist(rotations, body.rest_joints29(betas))
    records["joints_conf"], records["twists_conf"] = 1.0, 1.0
    records["image_size"] = image_size
    for flag in ("has_pose", "has_depth", "has_betas", "has_twists"):
        records[flag] = 1
    return records


@dataclass
class _Mistake:
    """What goes wrong for one person, before it is made consistent."""

    kind: int
    pose: np.ndarray  # (24, 3) what the estimator thinks of, before limbs are moved and noise
    targets: np.ndarray  # (29, 3) joints to reach; used when the kind moves limbs
    twist_source: np.ndarray  # (23,) where each twist is taken from
    twist_sign: np.ndarray  # (23,) of its sine


def _swap_sides(rng: np.random.Generator, joints: np.ndarray, mistake: _Mistake) -> None:
    """The arms or the legs point where the other side's do, as after a confusion of left and right."""
    left, right = (LEFT_ARM, RIGHT_ARM) if rng.random() < 0.5 else (LEFT_LEG, RIGHT_LEG)
    for upper, other in zip(left + right, right + left, strict=True):
        bone, wanted = joints[upper] - joints[PARENTS[upper]], joints[other] - joints[PARENTS[other]]
        bone = wanted * (np.linalg.norm(bone) / max(np.linalg.norm(wanted), 1e-6))
        mistake.targets[upper] = mistake.targets[PARENTS[upper]] + bone
    for joint in (PARENTS[left[0]], *left[:3], PARENTS[right[0]], *right[:3]):
        mistake.twist_source[joint - 1] = FLIP_TWISTS[joint - 1]
        mistake.twist_sign[joint - 1] = -1.0


def _flip_depth(rng: np.random.Generator, joints: np.ndarray, mistake: _Mistake) -> None:
    """One limb leans as far towards the camera as it leans away: its picture hardly changes."""
    reach = np.array([abs(joints[limb[2], 2] - joints[PARENTS[limb[0]], 2]) for limb in LIMBS]) + 0.02
    limb = LIMBS[rng.choice(len(LIMBS), p=reach / reach.sum())]
    first = 0 if rng.random() < 0.6 else 1  # the whole limb, or from the elbow or knee down
    for number, joint in enumerate(limb):
        bone = joints[joint] - joints[PARENTS[joint]]
        if number >= first:
            bone = bone * [1.0, 1.0, -1.0]
        mistake.targets[joint] = mistake.targets[PARENTS[joint]] + bone


def _draw_mistake(rng: np.random.Generator, spec: DomainSpec, bank: PoseBank, truth: np.void) -> _Mistake:
    joints = truth["joints29"].astype(np.float64)
    kind = int(rng.choice(len(KIND_ODDS), p=KIND_ODDS))
    pose = truth["pose"].astype(np.float64)
    mistake = _Mistake(kind, pose, joints.copy(), np.arange(NUM_TWISTS), np.ones(NUM_TWISTS))
    if kind == SWAPPED:
        _swap_sides(rng, joints, mistake)
    elif kind == DEPTH_FLIPPED:
        _flip_depth(rng, joints, mistake)
    elif kind == GROSS:
        root = Rotation.from_rotvec(mistake.pose[0])
        if rng.random() < 0.5:  # another pose altogether
            mistake.pose = bank.sample(rng, spec)
            root = view_rotation(rng, spec) * Rotation.from_rotvec(mistake.pose[0])
        else:  # seen from the wrong side
            root = Rotation.from_rotvec([0.0, rng.uniform(np.pi / 2, 3 * np.pi / 2), 0.0]) * root
        mistake.pose[0] = root.as_rotvec()
    return mistake


def _noise(rng: np.random.Generator) -> np.ndarray:
    """(24, 3) axis-angle: a level of this person, joints that are worse and better, a third of it at the root."""
    level = np.exp(rng.uniform(*np.log(NOISE_LEVEL)))
    of_joint = np.exp(rng.uniform(np.log(0.3), np.log(2.0), (24, 1)))
    noise = rng.normal(0.0, 1.0, (24, 3)) * level * of_joint
    noise[0] *= 0.33
    return noise


def pseudo_labels(
    rngs: list[np.random.Generator], spec: DomainSpec, bank: PoseBank, body: BodyModel, truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Wrong versions of exact records.

    Args:
        rngs: one generator a record.
        spec, bank: where another pose comes from in a gross failure.
        truth: (N,) SAMPLE_DTYPE.

    Returns:
        records (N,) SAMPLE_DTYPE, and kinds (N,) uint8, indices of KIND_NAMES.
    """
    mistakes = [_draw_mistake(rng, spec, bank, record) for rng, record in zip(rngs, truth, strict=True)]
    kinds = np.array([mistake.kind for mistake in mistakes], np.uint8)
    rotations = roma.rotvec_to_rotmat(torch.from_numpy(np.stack([m.pose for m in mistakes]).astype(np.float32)))

    rest = body.rest_joints29(torch.from_numpy(truth["betas"]))  # (N, 29, 3)
    targets = torch.from_numpy(np.stack([m.targets for m in mistakes]).astype(np.float32))
    twists = np.stack([record["twists"][m.twist_source] for record, m in zip(truth, mistakes, strict=True)])
    twists[..., 1] *= np.stack([m.twist_sign for m in mistakes])
    reached = inverse_kinematics(targets, torch.from_numpy(twists), rest)
    moved = torch.from_numpy(np.isin(kinds, (SWAPPED, DEPTH_FLIPPED)))
    # Inverse kinematics puts bones right, not the exact rotations of joints with several children: touch limbs only.
    limbs = torch.zeros(24, dtype=torch.bool)
    limbs[[joint for limb in LIMBS for joint in (PARENTS[limb[0]], *limb[:3])]] = True
    rotations = torch.where((moved[:, None] & limbs)[..., None, None], reached, rotations)

    noise = torch.from_numpy(np.stack([_noise(rng) for rng in rngs]).astype(np.float32))
    pose = roma.rotmat_to_rotvec(rotations @ roma.rotvec_to_rotmat(noise)).numpy()  # (N, 24, 3)

    betas = truth["betas"] + np.stack([rng.normal(0.0, BETAS_NOISE, 10) for rng in rngs]).astype(np.float32)
    pelvis = truth["joints29"][:, 0].astype(np.float64)
    focal = truth["intrinsics"][:, 0, 0].astype(np.float64)
    for row, rng in enumerate(rngs):
        # Such labels are fitted to the picture: the pelvis moves along its ray, and a little across.
        shift = rng.normal(0.0, PIXEL_NOISE * truth["image_size"][row, 0], 2) / focal[row] * pelvis[row, 2]
        pelvis[row, :2] += shift
        pelvis[row] *= np.exp(rng.normal(0.0, DEPTH_NOISE))
    rest_pelvis = body.rest_joints29(torch.from_numpy(betas))[:, 0].numpy()
    transl = pelvis - rest_pelvis
    return exact_records(body, pose, betas, transl, truth["intrinsics"], int(truth["image_size"][0, 0])), kinds
