"""From people as a source gives them to label records, many at once: bodies posed, joints projected, twists computed,
what cannot be right rejected. Cutting the crop, to whose pixels the records then move, is in context_crop.py."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import roma
import torch
from torch import Tensor

from adhmr.body.kinematics import swing_twist
from adhmr.body.skeleton import NUM_BODY_JOINTS
from adhmr.data.boxes import PERSON_OVER_JOINTS
from adhmr.data.schema import SAMPLE_DTYPE, box_as_joints
from adhmr.data.sources.bodies import BodyFiles, fitted_betas
from adhmr.data.sources.person import MeshLabel, Person, SmplLabel, SmplxLabel
from adhmr.data.sources.source import Rejected

NEAREST = 0.2  # metres between camera and a joint, at least
SKELETON = (0.3, 3.0)  # metres of the longest distance between two of the 24 joints: units, children, crouching people
JOINTS_APART = 0.12  # metres between the annotated joints and those of the annotated body, mean, at most
PIXELS_APART = 0.15  # of the person's size in pixels: between annotated and projected joints, median, at most
LARGEST_BETA = 8.0  # deviations of a shape that is believed
LARGEST_ROTATION = 4 * np.pi  # radians of an axis-angle vector
FEWEST_JOINTS = 6  # of the 24 that must be known and in the picture

Labelled = tuple[Person, np.void]


@torch.no_grad()
def label_people(people: Sequence[Person | Rejected], bodies: BodyFiles) -> list[Labelled | Rejected]:
    """A record in pixels of its whole image for each person, or why there is none; in the same order."""
    result: list[Labelled | Rejected | None] = [one if isinstance(one, Rejected) else None for one in people]
    for rows in _alike(people):
        chosen = [people[row] for row in rows]
        for row, person, labelled in zip(rows, chosen, _records(chosen, bodies), strict=True):
            result[row] = labelled if isinstance(labelled, Rejected) else (person, labelled)
    return result


def _alike(people: Sequence[Person | Rejected]) -> list[list[int]]:
    """Rows of people whose bodies are posed together: the same kind and gender."""
    groups: dict[tuple, list[int]] = {}
    for row, person in enumerate(people):
        if not isinstance(person, Rejected):
            body = person.body
            groups.setdefault((type(body), getattr(body, "gender", None)), []).append(row)
    return list(groups.values())


def _records(people: list[Person], bodies: BodyFiles) -> list[np.void | Rejected]:
    records = np.zeros(len(people), SAMPLE_DTYPE)
    reasons: list[str | None] = [None] * len(people)
    records["betas"], records["pose"] = 0.0, 0.0
    if isinstance(people[0].body, SmplLabel):
        posed = _pose_smpl(people, records, bodies)
    elif isinstance(people[0].body, SmplxLabel):
        posed = _pose_smplx(people, records, bodies)
    elif isinstance(people[0].body, MeshLabel):
        posed = _joints_of_meshes(people, bodies)
    else:
        posed = [None] * len(people)
    for n, person in enumerate(people):
        reasons[n] = _fill(records[n], person, posed[n])
    return [
        record if reason is None else Rejected(person.key, reason)
        for person, record, reason in zip(people, records, reasons, strict=True)
    ]


def _stack(parts: Sequence[np.ndarray | None], shape: tuple[int, ...]) -> Tensor:
    zero = np.zeros(shape, np.float32)
    rows = [zero if part is None else np.asarray(part, np.float32).reshape(shape) for part in parts]
    return torch.from_numpy(np.nan_to_num(np.stack(rows)))


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
    records["has_betas"] = [person.body.betas is not None for person in people]
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
    records["has_betas"] = [label.betas is not None for label in labels]
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


def _fill(record: np.void, person: Person, posed: np.ndarray | None) -> str | None:
    """Joints, pixels, camera and flags of a record whose pose and shape are there. Returns why it cannot be right.

    Another skeleton's points (`near_px`: COCO's, OpenPose's) place a body and reject one that is elsewhere. They are
    labels only of people who have no body: a body's pixels and depths must belong to the same points.
    """
    if person.unlabelled:
        return _fill_box(record, person)
    if isinstance(person.body, MeshLabel) and posed is None:
        return "its mesh has not the vertices of the SMPL-X file"
    if isinstance(person.body, SmplLabel | SmplxLabel) and (reason := _bad_parameters(record, person)):
        return reason
    annotated = _known(person.joints29, (29, 3))
    if isinstance(person.body, SmplLabel | SmplxLabel) and person.body.transl is None:
        shift = _shift(posed, annotated, person)
        if shift is None:
            posed, record["has_pose"] = None, 0  # nobody knows where this body stands
        else:
            posed = posed + shift
            record["transl"] += shift
    joints = annotated if posed is None else np.where(np.isfinite(annotated), annotated, posed)
    if posed is not None and np.isfinite(annotated[0]).all():
        apart = np.linalg.norm((annotated - annotated[0]) - (posed - posed[0]), axis=-1)
        if np.nanmean(apart) > JOINTS_APART:
            return "its annotated joints are not those of its annotated body"
    found = np.isfinite(joints).all(1)
    if found[:NUM_BODY_JOINTS].sum() >= FEWEST_JOINTS and (reason := _bad_skeleton(joints)):
        return reason
    if person.box is not None and not (np.isfinite(person.box).all() and (person.box[2:] > person.box[:2]).all()):
        return "its box is empty"
    if person.intrinsics is not None and not _is_camera(np.asarray(person.intrinsics)):
        return "its camera is no pinhole camera"
    if person.intrinsics is None and person.size is None:
        return "neither its camera nor the size of its image is known"
    intrinsics = assumed_intrinsics(person.size) if person.intrinsics is None else np.asarray(person.intrinsics)
    pixels, near = _known(person.joints29_px, (29, 2)), _known(person.near_px, (29, 2))
    projected = _project(joints, intrinsics) if person.intrinsics is not None else np.full((29, 2), np.nan)
    if reason := _apart_in_pixels(pixels, projected, person.confidence) or _apart_in_pixels(near, projected, None):
        return reason
    if posed is None:
        pixels = np.where(np.isfinite(pixels), pixels, near)
    given = np.isfinite(pixels).all(1)
    pixels = np.where(given[:, None], pixels, projected)
    confidence = np.isfinite(pixels).all(1).astype(np.float32)
    if person.confidence is not None:
        annotators = np.asarray(person.confidence, np.float32)
        confidence[given] *= np.where(np.isfinite(annotators), annotators, 0)[given]
    if (confidence[:NUM_BODY_JOINTS] > 0).sum() < FEWEST_JOINTS:
        return "too few of its joints are known"
    record["joints29"], record["joints29_px"] = (np.where(np.isfinite(part), part, 0) for part in (joints, pixels))
    record["joints_conf"], record["intrinsics"] = confidence, intrinsics
    # Depths are counted from the pelvis; some sets have it and the limbs, without spine and hips.
    record["has_depth"] = found[0] and found[confidence > 0].all()
    record["twists_conf"] = record["has_twists"]
    if isinstance(person.body, SmplxLabel):
        record["twists_conf"][21:] = 0  # SMPL's hands, which SMPL-X has not
    if person.twists is not None:
        known = np.isfinite(person.twists)
        angles = np.where(known, person.twists, 0.0)
        record["twists"], record["twists_conf"] = np.stack([np.cos(angles), np.sin(angles)], -1), known
        record["has_twists"] = bool(known.any())
    if person.joints17 is not None and np.isfinite(person.joints17).all():
        record["joints17"], record["has_joints17"] = person.joints17, 1
    return None


def _fill_box(record: np.void, person: Person) -> str | None:
    """Of somebody without labels: the corners of the box stand in the place of the joints, without confidence."""
    if person.size is None and (person.box is None or person.intrinsics is None):
        return "neither its camera nor the size of its image is known"
    box = np.asarray((0, 0, *person.size[::-1]) if person.box is None else person.box, np.float64)
    if not np.isfinite(box).all() or (box[2:] - box[:2]).min() < 1:
        return "its box is empty"
    record["intrinsics"] = assumed_intrinsics(person.size) if person.intrinsics is None else person.intrinsics
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 / PERSON_OVER_JOINTS
    record["joints29_px"] = box_as_joints(np.concatenate([centre - half, centre + half]))
    return None


def _known(points: np.ndarray | None, shape: tuple[int, int]) -> np.ndarray:
    """A float copy; rows of which any number is not finite are NaN throughout."""
    if points is None:
        return np.full(shape, np.nan)
    points = np.array(points, np.float64).reshape(shape)
    points[~np.isfinite(points).all(1)] = np.nan
    return points


def _bad_parameters(record: np.void, person: Person) -> str | None:
    body = person.body
    pose = body.pose if isinstance(body, SmplLabel) else np.concatenate([body.root.ravel(), body.body.ravel()])
    parts = {"pose": pose, "shape": body.betas, "translation": body.transl}
    for name, part in parts.items():
        if part is not None and not np.isfinite(part).all():
            return f"its {name} is not a number"
    if np.linalg.norm(np.reshape(pose, (-1, 3)), axis=-1).max() > LARGEST_ROTATION:
        return "its pose has a rotation of several turns (degrees?)"
    if record["has_betas"] and np.abs(record["betas"]).max() > LARGEST_BETA:
        return f"its shape is beyond {LARGEST_BETA:.0f} deviations"
    return None


def _shift(posed: np.ndarray, annotated: np.ndarray, person: Person) -> np.ndarray | None:
    """(3,) by which a body without a known place moves: its pelvis onto the annotated one, or else the least squares of
    its joints' rays; None when neither is known."""
    if np.isfinite(annotated[0]).all():
        return annotated[0] - posed[0]
    pixels = _known(person.joints29_px if person.near_px is None else person.near_px, (29, 2))
    seen = np.isfinite(pixels).all(1)
    if person.intrinsics is None or seen.sum() < FEWEST_JOINTS:
        return None
    # (u - cx) (Z + tz) = fx (X + tx), and likewise v: linear in the translation.
    matrix = np.asarray(person.intrinsics, np.float64)
    rays = (pixels[seen] - matrix[:2, 2]) / matrix[[0, 1], [0, 1]]  # (S, 2)
    zeros, ones = np.zeros(len(rays)), np.ones(len(rays))
    rows = np.concatenate([np.stack([ones, zeros, -rays[:, 0]], 1), np.stack([zeros, ones, -rays[:, 1]], 1)])
    at = posed[seen]
    values = np.concatenate([rays[:, 0] * at[:, 2] - at[:, 0], rays[:, 1] * at[:, 2] - at[:, 1]])
    shift, *_ = np.linalg.lstsq(rows, values, rcond=None)
    return shift if (posed + shift)[:, 2].min() > NEAREST else None


def _bad_skeleton(joints: np.ndarray) -> str | None:
    body = joints[:NUM_BODY_JOINTS]
    body = body[np.isfinite(body).all(1)]
    span = np.linalg.norm(body[:, None] - body[None], axis=-1).max()
    if not SKELETON[0] < span < SKELETON[1]:
        return "its joints do not span what a person does (unit?)"
    if body[:, 2].min() < NEAREST:
        return "it is behind the camera or at it"
    return None


def _is_camera(intrinsics: np.ndarray) -> bool:
    return bool(np.isfinite(intrinsics).all() and min(intrinsics[0, 0], intrinsics[1, 1]) > 0)


def _project(joints: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """(29, 2) pixels of the joints that are in front of the camera, else NaN."""
    points = joints @ intrinsics.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(joints[:, 2:] > NEAREST, points[:, :2] / points[:, 2:], np.nan)


def _apart_in_pixels(pixels: np.ndarray, projected: np.ndarray, confidence: np.ndarray | None) -> str | None:
    both = np.isfinite(pixels).all(1) & np.isfinite(projected).all(1)
    if confidence is not None:
        both &= np.asarray(confidence) > 0  # not a number is not above zero
    if not both.any():
        return None
    size = max(np.ptp(projected[both], axis=0).max(), np.ptp(pixels[both], axis=0).max(), 1.0)
    if np.median(np.linalg.norm(pixels[both] - projected[both], axis=-1)) > PIXELS_APART * size:
        return "its joints do not project onto its joints in the image"
    return None


def assumed_intrinsics(size: tuple[int, int]) -> np.ndarray:
    """(3, 3) of an image (height, width) whose camera is unknown: the diagonal for a focal length, centred."""
    height, width = size
    focal = float(np.hypot(height, width))
    return np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
