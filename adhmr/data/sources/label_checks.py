"""What cannot be right of a person's annotation, and by how much it may be off. Each says why, in few words without
numbers, for reasons are counted; or None."""

from __future__ import annotations

import numpy as np

from adhmr.body.skeleton import NUM_BODY_JOINTS
from adhmr.data.sources.person import Person, SmplLabel

NEAREST = 0.2  # metres between camera and a joint, at least
SKELETON = (0.3, 3.0)  # metres of the longest distance between two of the 24 joints: units, children, crouching people
JOINTS_APART = 0.12  # metres between the annotated joints and those of the annotated body, mean, at most
PIXELS_APART = 0.15  # of the person's size in pixels: between annotated and projected joints, median, at most
LARGEST_BETA = 8.0  # deviations of a shape that is believed
LARGEST_ROTATION = 4 * np.pi  # radians of an axis-angle vector


def bad_parameters(record: np.void, person: Person) -> str | None:
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


def bad_skeleton(joints: np.ndarray) -> str | None:
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


def bad_frame(person: Person) -> str | None:
    """Of box, camera and image."""
    if person.box is not None and not (np.isfinite(person.box).all() and (person.box[2:] > person.box[:2]).all()):
        return "its box is empty"
    if person.intrinsics is not None and not _is_camera(np.asarray(person.intrinsics)):
        return "its camera is no pinhole camera"
    if person.intrinsics is None and person.size is None:
        return "neither its camera nor the size of its image is known"
    return None


def apart_in_space(annotated: np.ndarray, posed: np.ndarray) -> str | None:
    """Of annotated joints (29, 3), NaN where unknown, and those of the posed body, pelvis on pelvis."""
    if not np.isfinite(annotated[0]).all():
        return None
    apart = np.linalg.norm((annotated - annotated[0]) - (posed - posed[0]), axis=-1)
    return "its annotated joints are not those of its annotated body" if np.nanmean(apart) > JOINTS_APART else None


def apart_in_pixels(pixels: np.ndarray, projected: np.ndarray, confidence: np.ndarray | None) -> str | None:
    both = np.isfinite(pixels).all(1) & np.isfinite(projected).all(1)
    if confidence is not None:
        both &= np.asarray(confidence) > 0  # not a number is not above zero
    if not both.any():
        return None
    size = max(np.ptp(projected[both], axis=0).max(), np.ptp(pixels[both], axis=0).max(), 1.0)
    if np.median(np.linalg.norm(pixels[both] - projected[both], axis=-1)) > PIXELS_APART * size:
        return "its joints do not project onto its joints in the image"
    return None
