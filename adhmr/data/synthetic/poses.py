"""Poses and shapes of synthetic people: captured frames, recombined, mirrored and disturbed.

The bank is split by time: blocks of frames belong to train, val or test, with a gap between them, so that no held-out
pose is a neighbour of one that was trained on. How a person stands before the camera is `scene`'s matter.
"""

from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from adhmr.body.skeleton import FLIP_JOINTS
from adhmr.data.synthetic.sets import DomainSpec
from adhmr.errors import AdhmrError

BANK_PATH = Path(__file__).parents[2] / "assets" / "poses.npz"
BLOCK = 36  # frames, 1.5 s at the bank's 24 frames a second
GAP = 12  # frames on either side of a held-out block that nobody uses
PERIOD, HELD_OUT = 8, {2: "val", 5: "test"}  # block number modulo PERIOD -> split
STRAIGHT, UPRIGHT = np.cos(np.radians([30.0, 60.0]))  # of the root's tilt

FLIP_24 = np.asarray(FLIP_JOINTS)[:24]
ARMS = [13, 14, 16, 17, 18, 19, 20, 21]
NOISE_SHARE = {22: 0.3, 23: 0.3, 10: 0.3, 11: 0.3}  # hands and toes hardly bend


def mirror_pose(pose: np.ndarray) -> np.ndarray:
    """Mirror image of axis-angle poses (…, 24, 3): sides swapped, y and z negated."""
    return pose[..., FLIP_24, :] * np.array([1.0, -1.0, -1.0])


def split_frames(takes: list[int]) -> dict[str, np.ndarray]:
    """Frame numbers (over all takes in a row) of each split, for takes of these lengths.

    Blocks are counted through all takes; the frames within GAP of a held-out block of the same take are left out.
    """
    owner = []
    block = 0
    for length in takes:
        of_take = np.empty(length, object)
        for start in range(0, length, BLOCK):
            of_take[start : start + BLOCK] = HELD_OUT.get(block % PERIOD, "train")
            block += 1
        guarded = of_take.copy()
        for frame in range(length):
            near = of_take[max(0, frame - GAP) : frame + GAP + 1]
            if of_take[frame] == "train" and any(other != "train" for other in near):
                guarded[frame] = "gap"
        owner.append(guarded)
    owner = np.concatenate(owner)
    return {split: np.flatnonzero(owner == split) for split in ("train", "val", "test")}


def facing_forward(root: np.ndarray) -> np.ndarray:
    """Root rotations (N, 3) axis-angle, y up, turned about the vertical until they face +z."""
    rotation = Rotation.from_rotvec(root)
    forward = rotation.apply([0.0, 0.0, 1.0])  # (N, 3)
    heading = np.arctan2(forward[:, 0], forward[:, 2])
    return (Rotation.from_euler("y", -heading[:, None]) * rotation).as_rotvec()


class PoseBank:
    """The captured frames of one split.

    Args:
        split: "train", "val" or "test".
        path: npz whose arrays of shape (frames, 24, 3) are takes, axis-angle radians, y up.

    Raises:
        AdhmrError: no such file, or no take in it.
    """

    def __init__(self, split: str, path: Path = BANK_PATH) -> None:
        if not path.is_file():
            raise AdhmrError(f"{path}: the pose bank is missing; reinstall the package")
        with np.load(path, allow_pickle=False) as archive:
            arrays = [archive[name] for name in sorted(archive.files)]
        takes = [array.astype(np.float64) for array in arrays if array.ndim == 3 and array.shape[1:] == (24, 3)]
        if not takes:
            raise AdhmrError(f"{path}: expected at least one take of shape (frames, 24, 3)")
        self.frame_numbers = split_frames([len(take) for take in takes])[split]
        self.frames = np.concatenate(takes)[self.frame_numbers]  # (F, 24, 3)
        self.frames[:, 0] = facing_forward(self.frames[:, 0])
        up = Rotation.from_rotvec(self.frames[:, 0]).apply([0.0, 1.0, 0.0])[:, 1]
        self.straight, self.bent = np.flatnonzero(up >= STRAIGHT), np.flatnonzero((up < STRAIGHT) & (up >= UPRIGHT))
        self.upright, self.lying = np.flatnonzero(up >= UPRIGHT), np.flatnonzero(up < UPRIGHT)

    def _frame(self, rng: np.random.Generator, candidates: np.ndarray) -> np.ndarray:
        pose = self.frames[candidates[rng.integers(len(candidates))]].copy()
        return mirror_pose(pose) if rng.random() < 0.5 else pose

    def sample(self, rng: np.random.Generator, spec: DomainSpec) -> np.ndarray:
        """One pose (24, 3), axis-angle, y up, facing +z."""
        lying = len(self.lying) > 0 and rng.random() < spec.lying_share
        bent = len(self.bent) > 0 and rng.random() < spec.bent_share
        pose = self._frame(rng, self.lying if lying else self.bent if bent else self.straight)
        choice = rng.random()
        if choice < spec.other_arms:
            pose[ARMS] = self._frame(rng, self.upright)[ARMS]
        elif choice < spec.other_arms + spec.random_arms:
            for shoulder, elbow, side in ((16, 18, 1.0), (17, 19, -1.0)):
                lift = side * rng.uniform(-1.35, 0.9)
                pose[shoulder] = [rng.normal(0.0, 0.3), side * rng.normal(0.0, 0.5), lift]
                pose[elbow] = [0.0, -side * rng.uniform(0.0, 2.1), 0.0]
        if not lying and rng.random() < spec.random_legs:
            for hip, knee, side in ((1, 4, 1.0), (2, 5, -1.0)):
                flexion = max(rng.normal(0.2, 0.4), -0.3)
                pose[hip] = [-flexion, side * rng.normal(0.1, 0.15), side * rng.uniform(-0.05, 0.35)]
                pose[knee] = [rng.uniform(0.0, 0.5) + max(flexion, 0.0) * rng.uniform(0.3, 1.3), 0.0, 0.0]
        noise = rng.normal(0.0, spec.joint_noise, (23, 3))
        for joint, share in NOISE_SHARE.items():
            noise[joint - 1] *= share
        pose[1:] += noise
        pose[15] += rng.normal(0.0, 0.12, 3)  # people look about
        return pose


def sample_betas(rng: np.random.Generator) -> np.ndarray:
    """Shape coefficients (10,)."""
    return rng.normal(0.0, 0.7, 10).clip(-2.0, 2.0)
