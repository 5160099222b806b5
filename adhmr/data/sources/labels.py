"""From people as a source gives them to label records, many at once: joints placed and projected, what is known marked.

Bodies are posed in posed_people.py, what cannot be right is said by label_checks.py; cutting the crop, to whose pixels
the records then move, is in context_crop.py."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from adhmr.body.skeleton import NUM_BODY_JOINTS
from adhmr.data.boxes import PERSON_OVER_JOINTS
from adhmr.data.schema import SAMPLE_DTYPE, box_as_joints
from adhmr.data.sources.bodies import BodyFiles
from adhmr.data.sources.label_checks import (
    NEAREST,
    apart_in_pixels,
    apart_in_space,
    bad_frame,
    bad_parameters,
    bad_skeleton,
)
from adhmr.data.sources.person import MeshLabel, Person, SmplLabel, SmplxLabel
from adhmr.data.sources.posed_people import pose_people
from adhmr.data.sources.source import Rejected

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
    posed = pose_people(people, records, bodies)
    for n, person in enumerate(people):
        reasons[n] = _fill(records[n], person, posed[n])
    return [
        record if reason is None else Rejected(person.key, reason)
        for person, record, reason in zip(people, records, reasons, strict=True)
    ]


def _fill(record: np.void, person: Person, posed: np.ndarray | None) -> str | None:
    """Joints, pixels, camera and flags of a record whose pose and shape are there. Returns why it cannot be right.

    Another skeleton's points (`near_px`: COCO's, OpenPose's) place a body and reject one that is elsewhere. They are
    labels only of people who have no body: a body's pixels and depths must belong to the same points.
    """
    if person.unlabelled:
        return _fill_box(record, person)
    if isinstance(person.body, MeshLabel) and posed is None:
        return "its mesh has not the vertices of the SMPL-X file"
    if isinstance(person.body, SmplLabel | SmplxLabel) and (reason := bad_parameters(record, person)):
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
    if posed is not None and (reason := apart_in_space(annotated, posed)):
        return reason
    found = np.isfinite(joints).all(1)
    if found[:NUM_BODY_JOINTS].sum() >= FEWEST_JOINTS and (reason := bad_skeleton(joints)):
        return reason
    if reason := bad_frame(person):
        return reason
    intrinsics = assumed_intrinsics(person.size) if person.intrinsics is None else np.asarray(person.intrinsics)
    pixels, near = _known(person.joints29_px, (29, 2)), _known(person.near_px, (29, 2))
    projected = _project(joints, intrinsics) if person.intrinsics is not None else np.full((29, 2), np.nan)
    if reason := apart_in_pixels(pixels, projected, person.confidence) or apart_in_pixels(near, projected, None):
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


def _project(joints: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """(29, 2) pixels of the joints that are in front of the camera, else NaN."""
    points = joints @ intrinsics.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(joints[:, 2:] > NEAREST, points[:, :2] / points[:, 2:], np.nan)


def assumed_intrinsics(size: tuple[int, int]) -> np.ndarray:
    """(3, 3) of an image (height, width) whose camera is unknown: the diagonal for a focal length, centred."""
    height, width = size
    focal = float(np.hypot(height, width))
    return np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
