"""The token graph of the body: 29 joint tokens and 23 twist tokens, its adjacency and the masks made of it.

The skeleton itself is in adhmr.body.skeleton.
"""

import numpy as np
import torch

from adhmr.body.skeleton import NUM_JOINTS, NUM_TWISTS, PARENTS

NUM_TOKENS = NUM_JOINTS + NUM_TWISTS


def joint_adjacency() -> np.ndarray:
    """(29, 29) bool: each joint with itself, its parent and its children."""
    adjacency = np.eye(NUM_JOINTS, dtype=bool)
    for joint, parent in enumerate(PARENTS):
        if parent >= 0:
            adjacency[joint, parent] = adjacency[parent, joint] = True
    return adjacency


def token_adjacency() -> np.ndarray:
    """(52, 52) bool: joints as in `joint_adjacency`; the twist token of joint j (1..23) linked with the neighbourhood
    of j; twist tokens that share a joint linked with each other."""
    joints = joint_adjacency()
    adjacency = np.eye(NUM_TOKENS, dtype=bool)
    adjacency[:NUM_JOINTS, :NUM_JOINTS] = joints
    neighbours = joints[1 : 1 + NUM_TWISTS]  # (23, 29): joints of each twist token
    adjacency[NUM_JOINTS:, :NUM_JOINTS] = neighbours
    adjacency[:NUM_JOINTS, NUM_JOINTS:] = neighbours.T
    adjacency[NUM_JOINTS:, NUM_JOINTS:] = (neighbours.astype(int) @ neighbours.T.astype(int)) > 0
    return adjacency


def within_hops(adjacency: np.ndarray, hops: int) -> torch.Tensor:
    """(T, T) bool: which tokens are at most `hops` links apart (each token is linked with itself)."""
    return torch.from_numpy(np.linalg.matrix_power(adjacency.astype(np.int64), hops) > 0)
