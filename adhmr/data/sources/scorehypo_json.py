"""The JSON form in which HybrIK and ScoreHypo pass on their training and test sets: reading it, and its people.

What differs from set to set (files, keys, units) is in scorehypo_sets.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from adhmr.body.skeleton import NUM_BODY_JOINTS
from adhmr.data.sources.json_columns import Columns, Field
from adhmr.data.sources.json_elements import json_elements
from adhmr.data.sources.label_checks import SKELETON
from adhmr.data.sources.person import Person, SmplLabel, person_key
from adhmr.data.sources.source import Rejected, Release, Source
from adhmr.errors import AdhmrError

PEOPLE_OF_UNITS = 1000  # whose joints are looked at when a file is opened
LEAST_BOX = 5.0  # pixels of a box in the image: the released code leaves out what is smaller
NO_TWIST = -10.0  # radians; an angle below (-999) marks a twist that is not known


@dataclass(frozen=True)
class ScoreHypoSet:
    """One set and split. Columns are named as in `ScoreHypoSource._person`.

    people: columns of the list `annotations`; images: those that are in the list `images`, or in annotations as well.
    Without images the file is one list of people. image: keys whose values, joined, are its path below `folder`.
    """

    name: str
    licence: str
    file: tuple[str, ...]  # usual places below the root
    folder: tuple[str, ...]  # of the images, likewise
    image: tuple[str, ...]
    people: Mapping[str, Field]
    images: Mapping[str, Field] | None = None
    group: str | None = None  # what of an image's path (a regular expression) names the group; null: the path
    wrong: str | None = None  # images whose labels are known to be wrong, by their path


class ScoreHypoSource(Source):
    """People of one file, in its order. A stride counts the people that the released code keeps: those whose box is in
    the image and whose labels are not known to be wrong."""

    def __init__(self, release: Release) -> None:
        self.set = self.describe(release.split)
        self.name, self.licence = self.set.name, self.set.licence
        self.path = release.file or release.path(*self.set.file)
        self.image_root = release.path(*self.set.folder)
        self._read()
        self.derive(self._columns)
        self._check_units()
        self._left_out = self._reasons()
        rank = np.cumsum(self._left_out == "") - 1
        self._rows = np.flatnonzero(rank % release.stride == 0)

    @classmethod
    def describe(cls, split: str) -> ScoreHypoSet:
        """The set's file, keys and units."""
        raise NotImplementedError

    def derive(self, columns: dict[str, np.ndarray]) -> None:
        """Columns that are made of others."""

    def image_path(self, stored: str) -> str:
        """Below the folder of images, from what the file calls the image."""
        return stored

    def files(self) -> list[Path]:
        return [self.path]

    def __len__(self) -> int:
        return len(self._rows)

    def people(self, rows: range) -> list[Person | Rejected]:
        return [self._person(row) for row in self._rows[rows.start : rows.stop].tolist()]

    def _read(self) -> None:
        """Columns of people, those of their images among them; names of the images; which image each person is in."""
        lists = ("images", "annotations") if self.set.images is not None else ()
        shared = {name: replace(field, required=False) for name, field in (self.set.images or {}).items()}
        people = Columns(self.path, "annotations" if lists else "the list", {**self.set.people, **shared})
        images = Columns(self.path, "images", shared)
        self._names: list[str] = []
        self._genders: list[str] = []
        wanted: list[Any] = []  # of each person: the id of its image
        ids: list[Any] = []
        for which, record in json_elements(self.path, lists):
            if which != "images":
                people.append(record)
                wanted.append(record.get("image_id"))
                self._genders.append(_gender(record))
            if which != "annotations":
                if lists:
                    images.append(record)
                ids.append(record.get("id"))
                self._names.append(self._name(record, len(self._names)))
        columns = people.arrays()
        self._image_of = self._join(ids, wanted) if lists else np.arange(len(people))
        for name, column in images.arrays().items():
            columns[name] = np.where(np.isnan(columns[name]), column[self._image_of], columns[name])
            if np.isnan(columns[name]).all() and len(columns[name]):
                raise AdhmrError(f"{self.path}: there is no '{self.set.images[name].name}' in images or annotations")
        columns["size"] = np.concatenate([columns.pop("width"), columns.pop("height")], 1)  # (N, 2)
        self._columns = columns

    def _name(self, record: Mapping[str, Any], number: int) -> str:
        parts = [record.get(key) for key in self.set.image]
        for key, part in zip(self.set.image, parts, strict=True):
            if not isinstance(part, str):
                raise AdhmrError(f"{self.path}: image number {number} has no '{key}'; expected part of its path")
        return "/".join(parts)

    def _join(self, ids: list[Any], wanted: list[Any]) -> np.ndarray:
        """(N,) rows of the people's images: by id, or where images have none, one person an image in order."""
        if all(one is None for one in ids):
            if len(ids) != len(wanted):
                raise AdhmrError(
                    f"{self.path}: {len(ids)} images without an id and {len(wanted)} annotations; without ids each "
                    "image has one annotation, in the same order"
                )
            return np.arange(len(ids))
        rows = {one: row for row, one in enumerate(ids)}
        lost = next((number for number, one in enumerate(wanted) if one not in rows), None)
        if lost is not None:
            raise AdhmrError(
                f"{self.path}: number {lost} of annotations is of image {wanted[lost]}, which is not among its images"
            )
        return np.array([rows[one] for one in wanted], np.int64)

    def _check_units(self) -> None:
        """Lengths that were read with the wrong unit are wrong for everybody: say so before anything is converted."""
        for column, first in (("joints29", NUM_BODY_JOINTS), ("joints17", 17)):
            if column not in self._columns or not len(self._columns[column]):
                continue
            joints = self._columns[column][:PEOPLE_OF_UNITS, :first]  # (N, J, 3)
            known = np.isfinite(joints).all(-1)
            low = np.where(known[..., None], joints, np.inf).min(1)
            high = np.where(known[..., None], joints, -np.inf).max(1)
            span = float(np.median(np.linalg.norm(high - low, axis=-1)[known.any(1)])) if known.any() else 1.0
            if not SKELETON[0] < span < SKELETON[1]:
                field = self.set.people.get(column)
                name = f"'{field.name}'" if field else "its joints"
                unit = "millimetres" if field is None or field.scale != 1 else "metres"
                raise AdhmrError(
                    f"{self.path}: {name}, read as {unit}, make people of {span:.4g} m, expected "
                    f"{SKELETON[0]:g} to {SKELETON[1]:g}: this file has another unit than the release"
                )

    def _reasons(self) -> np.ndarray:
        """(N,) why a person is left out here; "" for those who are not."""
        reasons = np.full(len(self._image_of), "", dtype=object)
        if "box" in self._columns:
            low, extent = self._columns["box"][:, :2], self._columns["box"][:, 2:]
            inside = np.minimum(low + extent, self._columns["size"]) - np.maximum(low, 0)  # size is width, height
            reasons[~(inside >= LEAST_BOX).all(1)] = "its box is empty or outside the image"
        if self.set.wrong:
            wrong = np.array([re.search(self.set.wrong, name) is not None for name in self._names], bool)
            reasons[wrong[self._image_of]] = "its labels are known to be wrong"
        return reasons

    def _person(self, row: int) -> Person | Rejected:
        key = person_key(self.path.stem, row)
        if self._left_out[row]:
            return Rejected(key, self._left_out[row])
        image = self._names[self._image_of[row]]
        part = {name: column[row] for name, column in self._columns.items()}
        width, height = part["size"].tolist()
        box = part.get("box")
        return Person(
            key=key,
            image=self.image_path(image),
            group=self._group(image),
            intrinsics=_intrinsics(part),
            size=(int(height), int(width)),
            box=None if box is None else np.concatenate([box[:2], box[:2] + box[2:]]).astype(np.float64),
            body=self._body(part, self._genders[row]),
            joints29=_without_zeros(part.get("joints29")),
            joints29_px=_without_zeros(part.get("joints29_px")),
            confidence=None if "confidence" not in part else part["confidence"][:, 0].clip(0, 1),
            joints17=part.get("joints17"),
            twists=_twists(part.get("twists")),
            provenance={"file": self.path.name, "row": row},
        )

    def _group(self, image: str) -> str:
        if self.set.group is None:
            return image
        found = re.search(self.set.group, image)
        return found.group() if found else image

    @staticmethod
    def _body(part: Mapping[str, np.ndarray], gender: str) -> SmplLabel | None:
        if "pose" not in part:
            return None
        transl = part.get("transl")
        known = transl is not None and not np.isnan(transl).all()
        return SmplLabel(part["pose"], part["betas"], transl if known else None, gender, neutral_otherwise=True)


def _gender(record: Mapping[str, Any]) -> str:
    """Of the body that a record's parameters are for, where it says so."""
    parameters = record.get("smpl_param")
    stored = parameters.get("gender") if isinstance(parameters, Mapping) else None
    return stored if stored in ("male", "female") else "neutral"


def _intrinsics(part: Mapping[str, np.ndarray]) -> np.ndarray:
    """(3, 3) from a matrix, or from focal lengths and principal point."""
    if "camera" in part:
        return part["camera"].astype(np.float64)
    focal, centre = part["focal"].astype(np.float64), part["centre"].astype(np.float64)
    return np.array([[focal[0], 0, centre[0]], [0, focal[1], centre[1]], [0, 0, 1]])


def _without_zeros(points: np.ndarray | None) -> np.ndarray | None:
    """Joints that a file fills up with zeros are unknown: no joint lies in the camera or in the image's corner."""
    if points is None or np.isnan(points).all():
        return None
    return np.where((points == 0).all(-1, keepdims=True), np.nan, points)


def _twists(angles: np.ndarray | None) -> np.ndarray | None:
    if angles is None or np.isnan(angles).all():
        return None  # a file without them: they come from the pose
    return np.where(angles[:, 0] > NO_TWIST, angles[:, 0], np.nan)
