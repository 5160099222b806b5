"""Build adhmr/assets/poses.npz: motion capture of the `holosoma-retargeting` wheel (Apache-2.0) as poses of our body.

    pip download --no-deps holosoma-retargeting==0.1.0 && unzip holosoma_retargeting-*.whl -d holosoma
    python tools/build/poses.py holosoma adhmr/assets/poses.npz

The wheel holds joint positions of another skeleton. Only the directions of its bones are used: rotations are found by
descent, whole takes at a time, with priors that keep knees and elbows hinges and the motion smooth. About a minute.
"""

import argparse
from pathlib import Path

import numpy as np
import roma
import torch
from torch import Tensor
from torch.nn.functional import normalize

from adhmr.body import BodyModel
from adhmr.body.kinematics import forward_kinematics

EVERY = 5  # the takes have about 120 frames a second; these have 24

_SIDE = "{0}Shoulder {0}Arm {0}ForeArm {0}Hand " + " ".join(
    f"{{0}}{finger}{k}" for finger in ("Thumb", "Index", "Middle", "Ring", "Pinky") for k in (1, 2, 3)
)
_LEGS = "{0}UpLeg {0}Leg {0}Foot {0}ToeBase"
_GROUPS = (_SIDE.format("Left"), _SIDE.format("Right"), _LEGS.format("Left"), _LEGS.format("Right"))
MARKERS = " ".join(("Hips Spine Spine1 Neck Head", *_GROUPS, "LeftFootMod RightFootMod")).split()

# Joint that turns the bone, the bone in our skeleton (from joint, to joint), the same in theirs, weight.
BONES = [
    (0, (2, 1), ("RightUpLeg", "LeftUpLeg"), 3.0),
    (0, (0, 3), ("Hips", "Spine"), 0.3),
    (1, (1, 4), ("LeftUpLeg", "LeftLeg"), 2.0),
    (2, (2, 5), ("RightUpLeg", "RightLeg"), 2.0),
    (3, (3, 6), ("Spine", "Spine1"), 1.0),
    (4, (4, 7), ("LeftLeg", "LeftFoot"), 2.0),
    (5, (5, 8), ("RightLeg", "RightFoot"), 2.0),
    (7, (7, 10), ("LeftFoot", "LeftToeBase"), 1.0),
    (8, (8, 11), ("RightFoot", "RightToeBase"), 1.0),
    (9, (9, 12), ("Spine1", "Neck"), 1.0),
    (9, (14, 13), ("RightShoulder", "LeftShoulder"), 1.0),
    (12, (12, 15), ("Neck", "Head"), 1.0),
    (13, (13, 16), ("LeftShoulder", "LeftArm"), 1.0),
    (14, (14, 17), ("RightShoulder", "RightArm"), 1.0),
    (16, (16, 18), ("LeftArm", "LeftForeArm"), 2.0),
    (17, (17, 19), ("RightArm", "RightForeArm"), 2.0),
    (18, (18, 20), ("LeftForeArm", "LeftHand"), 2.0),
    (19, (19, 21), ("RightForeArm", "RightHand"), 2.0),
    (20, (20, 22), ("LeftHand", "LeftMiddle1"), 1.0),
    (21, (21, 23), ("RightHand", "RightMiddle1"), 1.0),
]
# Palms: across the knuckles, which in the rest pose point forward.
PALMS = [(20, ("LeftPinky1", "LeftIndex1"), 0.5), (21, ("RightPinky1", "RightIndex1"), 0.5)]

POSE_PRIOR = {4: 0.004, 5: 0.004, 18: 0.004, 19: 0.004, 10: 0.2, 11: 0.2, 22: 0.2, 23: 0.2, 0: 0.0}
POSE_PRIOR |= dict.fromkeys((3, 6, 9, 13, 14), 0.05)
STEPS = 250


def retarget(markers: np.ndarray, rest: Tensor) -> tuple[np.ndarray, float]:
    """markers (T, 53, 3) z up, rest joints (>=24, 3) -> axis-angle (T, 24, 3), degrees off the bones."""
    points = torch.from_numpy(np.stack([markers[..., 1], markers[..., 2], markers[..., 0]], -1)).float()  # y up

    def theirs(ends: tuple[str, str]) -> Tensor:
        return points[:, MARKERS.index(ends[1])] - points[:, MARKERS.index(ends[0])]

    turning = [bone[0] for bone in BONES] + [palm[0] for palm in PALMS]
    ours = [rest[end] - rest[start] for _, (start, end), _, _ in BONES] + [torch.tensor([0.0, 0.0, 1.0])] * len(PALMS)
    ours = normalize(torch.stack(ours), dim=-1)  # (P, 3)
    wanted = [theirs(ends) for *_, ends, _ in BONES] + [theirs(ends) for _, ends, _ in PALMS]
    wanted = normalize(torch.stack(wanted, dim=1), dim=-1)  # (T, P, 3)
    weights = torch.tensor([row[-1] for row in (*BONES, *PALMS)])
    prior = torch.tensor([POSE_PRIOR.get(joint, 0.01) for joint in range(24)])

    identity = torch.eye(3)
    columns = identity[:, :2].expand(len(points), 24, 3, 2).clone()
    columns[:, 0] = torch.stack([theirs(("RightUpLeg", "LeftUpLeg")), theirs(("Hips", "Neck"))], dim=-1)
    columns[:, 0] = roma.special_gramschmidt(columns[:, 0])[..., :2]
    columns.requires_grad_()
    optimiser = torch.optim.Adam([columns], 0.05)
    for step in range(STEPS):
        if step == int(0.7 * STEPS):
            optimiser.param_groups[0]["lr"] = 0.015
        rotations = roma.special_gramschmidt(columns)
        world, _ = forward_kinematics(rotations, rest[None].expand(len(points), -1, -1))
        off = ((world[:, turning] @ ours[..., None]).squeeze(-1) - wanted).square().sum(-1)  # (T, P)
        bend = (rotations - identity).square().sum((-1, -2))
        jitter = (rotations[1:] - rotations[:-1]).square().sum((-1, -2)).mean()
        knees, elbows = rotations[:, [4, 5]], rotations[:, [18, 19]]  # hinges about x, and about y
        sideways = knees[..., 1:, 0].square().sum(-1).mean() + 0.5 * elbows[..., [0, 2], 1].square().sum(-1).mean()
        loss = (off @ weights).mean() + (bend @ prior).mean() + 0.02 * jitter + 0.3 * sideways
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    degrees = torch.rad2deg(2 * torch.asin((off.detach().sqrt() / 2).clamp(max=1)))
    return roma.rotmat_to_rotvec(rotations.detach()).numpy(), float(degrees.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path, help="folder of the unpacked wheel")
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    rest = BodyModel().rest_joints29(torch.zeros(1, 10))[0]
    takes = {}
    for path in sorted(arguments.wheel.glob("**/demo_data/climb/*/*_joint_positions_*.npy")):
        take = path.parent.name.removeprefix("mocap_")
        takes[take], degrees = retarget(np.load(path)[::EVERY], rest)
        print(f"{take}: {len(takes[take])} poses, bones {degrees:.1f} degrees off")
    if not takes:
        raise SystemExit(f"{arguments.wheel}: no climb takes below this folder; unpack the wheel there")
    np.savez_compressed(arguments.output, **{take: poses.astype(np.float16) for take, poses in takes.items()})
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
