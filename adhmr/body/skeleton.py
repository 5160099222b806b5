"""The 29-joint skeleton: SMPL's 24 joints and five leaf points that give the end bones a direction. Beside it, the 17
joints of Human3.6M that published errors are counted on.

Names, tree, mirror pairs and the order in which the tree is walked live here; no geometry and no torch do.
"""

_TREE = (
    # name, parent, main child: the child whose bone carries the joint's swing and twist (-1: a leaf)
    ("pelvis", -1, 3),
    ("left_hip", 0, 4),
    ("right_hip", 0, 5),
    ("spine1", 0, 6),
    ("left_knee", 1, 7),
    ("right_knee", 2, 8),
    ("spine2", 3, 9),
    ("left_ankle", 4, 10),
    ("right_ankle", 5, 11),
    ("spine3", 6, 12),
    ("left_foot", 7, 27),
    ("right_foot", 8, 28),
    ("neck", 9, 15),
    ("left_collar", 9, 16),
    ("right_collar", 9, 17),
    ("head", 12, 24),
    ("left_shoulder", 13, 18),
    ("right_shoulder", 14, 19),
    ("left_elbow", 16, 20),
    ("right_elbow", 17, 21),
    ("left_wrist", 18, 22),
    ("right_wrist", 19, 23),
    ("left_hand", 20, 25),
    ("right_hand", 21, 26),
    ("head_top", 15, -1),
    ("left_middle_tip", 22, -1),
    ("right_middle_tip", 23, -1),
    ("left_big_toe", 10, -1),
    ("right_big_toe", 11, -1),
)

JOINT_NAMES: tuple[str, ...] = tuple(name for name, _, _ in _TREE)
PARENTS: tuple[int, ...] = tuple(parent for _, parent, _ in _TREE)
MAIN_CHILD: tuple[int, ...] = tuple(child for _, _, child in _TREE)

NUM_JOINTS = len(_TREE)
"""Joints of a pose label: the 24 of the body model and five leaves."""
NUM_BODY_JOINTS = 24
"""Joints that have a rotation."""
NUM_TWISTS = NUM_BODY_JOINTS - 1
"""Twists: number k is the rotation of joint k + 1 about the bone to its main child."""

SMPL_LEAF_VERTICES: tuple[int, ...] = (411, 2445, 5905, 3216, 6617)
"""Vertices of SMPL's own mesh that are joints 24 to 28."""

BONES: tuple[tuple[int, int], ...] = tuple((parent, joint) for joint, parent in enumerate(PARENTS) if parent >= 0)


def _mirrored(name: str) -> str:
    side, _, rest = name.partition("_")
    return {"left": "right_" + rest, "right": "left_" + rest}.get(side, name)


FLIP_JOINTS: tuple[int, ...] = tuple(JOINT_NAMES.index(_mirrored(name)) for name in JOINT_NAMES)
"""Mirroring: joint i of the mirrored person is joint FLIP_JOINTS[i] of the person."""
FLIP_TWISTS: tuple[int, ...] = tuple(FLIP_JOINTS[k + 1] - 1 for k in range(NUM_TWISTS))
"""The same for twists, whose sines change sign as well."""


def _levels() -> tuple[tuple[int, ...], ...]:
    levels: list[tuple[int, ...]] = [(0,)]
    while level := tuple(j for j in range(NUM_BODY_JOINTS) if PARENTS[j] in levels[-1]):
        levels.append(level)
    return tuple(levels)


LEVELS: tuple[tuple[int, ...], ...] = _levels()
"""The 24 rotating joints by their depth in the tree, the root first. Read in order they are 0, 1, ... 23."""

H36M_NAMES: tuple[str, ...] = (
    "pelvis", "left_hip", "left_knee", "left_ankle", "right_hip", "right_knee", "right_ankle", "torso", "neck", "nose",
    "head", "left_shoulder", "left_elbow", "left_wrist", "right_shoulder", "right_elbow", "right_wrist",
)  # fmt: skip
"""The joints of Human3.6M, in the order of J_regressor_h36m and of the label `joints17`."""
FLIP_H36M: tuple[int, ...] = tuple(H36M_NAMES.index(_mirrored(name)) for name in H36M_NAMES)
H36M_14: tuple[int, ...] = (6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10)
"""Those of them that MPJPE is counted on: limbs, neck and head."""
