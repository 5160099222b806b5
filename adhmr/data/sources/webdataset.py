"""Any WebDataset of images with labels in JSON, or none: `adhmr data convert webdataset`. Also our own shards, whose
records are the labels. How tars are read is in tar_samples.py; the keys are in docs/own_images.md.

    KEY.jpg, .jpeg or .png    the image
    KEY.json                  one person, a list of them, or {"people": [...]} with what they share beside it
    KEY.npy                   a label record of ours, instead
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from adhmr.data.schema import decode_record
from adhmr.data.sources.person import Person, SmplLabel, SmplxLabel, person_key
from adhmr.data.sources.source import Rejected
from adhmr.data.sources.tar_samples import TarSample, TarSource

GENDERS = ("male", "female", "neutral")


class _WrongNumbers(Exception):
    """The key whose numbers are not as many as they should be."""


class WebDataset(TarSource):
    """Any WebDataset of images, with labels in JSON, our records, or none; see docs/own_images.md."""

    name = "WebDataset"
    licence = "as that of the images and labels"
    splits = ("all",)

    def people_of(self, sample: TarSample, image: str, first: int) -> list[Person | Rejected]:
        if sample.image is None:
            return []  # text, masks or a shard's own notes
        if "npy" in sample.spans:
            return [_of_record(sample, image, first)]
        try:
            shared, labels = _people(json.loads(sample.read("json") or b"{}"))
        except (ValueError, TypeError):
            return [Rejected(person_key(sample.key, first), "its JSON cannot be read")]
        return [_person(sample, image, first + n, {**shared, **label}) for n, label in enumerate(labels)]


def _people(content: Any) -> tuple[Mapping[str, Any], list[Mapping[str, Any]]]:
    """What all people share, and what each has of their own. Raises TypeError for what is no person."""
    shared, labels = {}, content if isinstance(content, list) else [content]
    if isinstance(content, dict) and "people" in content:
        shared, labels = {key: value for key, value in content.items() if key != "people"}, content["people"]
    if not isinstance(labels, list) or not all(isinstance(label, dict) for label in labels):
        raise TypeError
    return shared, labels


def _person(sample: TarSample, image: str, number: int, label: Mapping[str, Any]) -> Person | Rejected:
    key = person_key(sample.key, number)
    try:
        box = _numbers(label, "box", 4)
        if box is None and (corner := _numbers(label, "bbox", 4)) is not None:
            box = np.concatenate([corner[:2], corner[:2] + corner[2:]])
        size = None
        if label.get("height") and label.get("width"):
            size = (int(label["height"]), int(label["width"]))
        pixels, confidence = label.get("joints29_px"), None
        if pixels is not None and np.size(pixels) == 29 * 3:
            pixels = _numbers(label, "joints29_px", 29, 3)
            pixels, confidence = pixels[:, :2], pixels[:, 2]
        else:
            pixels = _numbers(label, "joints29_px", 29, 2)
        return Person(
            key=key,
            image=image,
            span=sample.image,
            group=str(label.get("group", sample.key)),
            intrinsics=_intrinsics(label),
            size=size,
            box=box,
            body=_body(label),
            extrinsics=_numbers(label, "extrinsics", 3, 4),
            joints29=_numbers(label, "joints29", 29, 3),
            joints29_px=pixels,
            confidence=confidence,
            joints17=_numbers(label, "joints17", 17, 3),
            twists=_numbers(label, "twists", 23),
            provenance={"key": sample.key},
        )
    except _WrongNumbers as error:
        return Rejected(key, f"its '{error}' has another number of numbers than it should")


def _numbers(label: Mapping[str, Any], key: str, *shape: int) -> np.ndarray | None:
    """None when the key is not there or null; null within is NaN."""
    if label.get(key) is None:
        return None
    try:
        return np.array(label[key], np.float64).reshape(shape)
    except (TypeError, ValueError):
        raise _WrongNumbers(key) from None


def _intrinsics(label: Mapping[str, Any]) -> np.ndarray | None:
    """A whole matrix, or focal length(s) and principal point."""
    if label.get("focal") is None or label.get("princpt") is None:
        return _numbers(label, "intrinsics", 3, 3)
    focal = np.broadcast_to(_numbers(label, "focal", -1), 2) if np.size(label["focal"]) <= 2 else None
    centre = _numbers(label, "princpt", 2)
    if focal is None:
        raise _WrongNumbers("focal")
    return np.array([[focal[0], 0, centre[0]], [0, focal[1], centre[1]], [0, 0, 1.0]])


def _body(label: Mapping[str, Any]) -> SmplLabel | SmplxLabel | None:
    if (smplx := label.get("smplx")) is not None:
        left, right = _numbers(smplx, "left_hand_pose", 15, 3), _numbers(smplx, "right_hand_pose", 15, 3)
        return SmplxLabel(
            root=_needed(smplx, "global_orient", 3),
            body=_needed(smplx, "body_pose", 21, 3),
            betas=_numbers(smplx, "betas", 10),
            transl=_numbers(smplx, "transl", 3),
            hands=None if left is None or right is None else np.stack([left, right]),
            jaw=_numbers(smplx, "jaw_pose", 3),
            expression=_numbers(smplx, "expression", 10),
            flat_hands=bool(smplx.get("flat_hands", False)),
            gender=_gender(smplx),
        )
    if (smpl := label.get("smpl")) is not None:
        pose = np.concatenate([_needed(smpl, "global_orient", 1, 3), _needed(smpl, "body_pose", 23, 3)])
        return SmplLabel(pose, _numbers(smpl, "betas", 10), _numbers(smpl, "transl", 3), _gender(smpl))
    return None


def _needed(parameters: Mapping[str, Any], key: str, *shape: int) -> np.ndarray:
    found = _numbers(parameters, key, *shape)
    if found is None:
        raise _WrongNumbers(key)
    return found


def _gender(parameters: Mapping[str, Any]) -> str:
    gender = str(parameters.get("gender", "neutral")).lower()
    return gender if gender in GENDERS else "neutral"


def _of_record(sample: TarSample, image: str, number: int) -> Person | Rejected:
    """The person of a sample of our own shards; the record's pose is for the body that the conversion names."""
    key = person_key(sample.key, number)
    try:
        record = decode_record(sample.read("npy"))
    except ValueError:
        return Rejected(key, "its record cannot be read")
    known, provenance = record["joints_conf"] > 0, json.loads(sample.read("json") or b"{}")
    unlabelled, depth = not known.any(), bool(record["has_depth"])
    box = None
    if unlabelled:
        points = record["joints29_px"]
        box = np.concatenate([points.min(0), points.max(0)])
    return Person(
        key=key,
        image=image,
        span=sample.image,
        group=str(provenance.get("group", sample.key)),
        intrinsics=record["intrinsics"],
        size=tuple(record["image_size"].tolist()),
        box=box,
        body=SmplLabel(record["pose"], record["betas"] if record["has_betas"] else None, record["transl"])
        if record["has_pose"]
        else None,
        joints29=np.where(known[:, None], record["joints29"], np.nan) if depth else None,
        joints29_px=None if unlabelled else np.where(known[:, None], record["joints29_px"], np.nan),
        confidence=None if unlabelled else record["joints_conf"],
        joints17=record["joints17"] if record["has_joints17"] else None,
        twists=_angles(record) if record["has_twists"] else None,
        provenance=provenance,
    )


def _angles(record: np.void) -> np.ndarray:
    cosine, sine = record["twists"].T
    return np.where(record["twists_conf"] > 0, np.arctan2(sine, cosine), np.nan)
