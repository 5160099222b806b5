"""Releases of made people in ScoreHypo's JSON form and as 3DPW's sequence files, in the official layouts and units."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import roma
import torch

from adhmr.data.sources.scorehypo_sets import Mpi3dhp
from tests.data.sources.made_people import MadePerson, Photograph, photographs

H36M_TRAIN = "annotations/Sample_5_train_Human36M_smpl_leaf_twist_protocol_2.json"
H36M_TEST = "annotations/Sample_20_test_Human36M_smpl_protocol_2.json"
H36M_IMAGE = "s_0{n}_act_02_subact_01_ca_01/s_0{n}_act_02_subact_01_ca_01_000001.jpg"


@lru_cache
def pictures() -> list[Photograph]:
    """Three photographs of two people each, whose joints are all within the rendered people."""
    return photographs(3, 2, seed=73)


@dataclass
class Row:
    image: str  # as the file names it
    photograph: Photograph
    person: MadePerson

    @property
    def xywh(self) -> list[float]:
        return np.concatenate([self.person.box[:2], self.person.box[2:] - self.person.box[:2]]).tolist()

    @property
    def camera(self) -> tuple[list[float], list[float]]:
        """Focal lengths and principal point."""
        matrix = self.photograph.intrinsics
        return [matrix[0, 0], matrix[1, 1]], matrix[:2, 2].tolist()

    @property
    def twists(self) -> dict[str, list[float]]:
        """angle_twist, with an angle that is not known."""
        angle = np.arctan2(self.person.twists[:, 1], self.person.twists[:, 0])
        angle[UNKNOWN_TWIST] = -999
        return {"angle": column(angle), "cos": column(np.cos(angle)), "sin": column(np.sin(angle))}


UNKNOWN_TWIST = 9  # of joint 10, a foot


def column(numbers: np.ndarray) -> list[list[float]]:
    return np.reshape(numbers, (-1, 1)).tolist()


def rows_of(photos: list[Photograph], pattern: str) -> list[Row]:
    return [Row(pattern.format(n=n), photo, one) for n, photo in enumerate(photos) for one in photo.people]


def size_of(row: Row) -> dict[str, int]:
    height, width = row.photograph.image.shape[:2]
    return {"width": width, "height": height}


def pixels_with_depth(person: MadePerson, joints: int, scale: float) -> list[list[float]]:
    """joint_img: pixels and absolute depth."""
    return np.c_[person.joints29_px, person.joints29[:, 2] * scale][:joints].tolist()


def h36m(rows: list[Row], split: str) -> dict[str, Any]:
    """Images and annotations, one to one; millimetres. Training files have 29 joints and twists."""
    joints = 29 if split == "train" else 24
    images, annotations = [], []
    for number, row in enumerate(rows):
        focal, centre = row.camera
        camera = {"f": focal, "c": centre, "R": np.eye(3).tolist(), "t": [0, 0, 0]}
        images.append({"id": number, "file_name": row.image, **size_of(row), "cam_param": camera, "subject": 1})
        one = row.person
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "bbox": row.xywh,
                "h36m_joints": (one.joints17 * 1000).tolist(),
                "smpl_joints": (one.joints29[:joints] * 1000).tolist(),
                "betas": one.betas.tolist(),
                "thetas": one.pose.ravel().tolist(),
                "root_coord": (one.joints29[0] * 1000).tolist(),
            }
        )
        if split == "train":
            annotations[-1]["angle_twist"] = row.twists
    return {"images": images, "annotations": annotations}


def pw3d(rows: list[Row], split: str) -> dict[str, Any]:
    """COCO style, several annotations an image; smpl_joint_cam in mm for training, all else in metres."""
    names = list(dict.fromkeys(row.image for row in rows))
    first = {row.image: row for row in reversed(rows)}
    images = []
    for name in names:
        sequence, file_name = name.split("/")
        focal, centre = first[name].camera
        entry = {"id": 700 + len(images), "sequence": sequence, "file_name": file_name, **size_of(first[name])}
        images.append(entry | {"cam_param": {"focal": focal, "princpt": centre}})
    annotations = []
    for number, row in enumerate(rows):
        one, scale = row.person, 1000 if split == "train" else 1
        parameters = {"shape": one.betas.tolist(), "pose": one.pose.ravel().tolist(), "trans": one.transl.tolist()}
        joints = 29 if split == "train" else 24
        annotations.append(
            {
                "id": number,
                "image_id": 700 + names.index(row.image),
                "bbox": row.xywh,
                "smpl_param": parameters | {"gender": "male"},
                "h36m_joints": one.joints17.ravel().tolist(),
                "smpl_joint_cam": (one.joints29[:joints] * scale).tolist(),
                "fitted_3d_pose": one.joints29[:24].tolist(),
            }
        )
        if split == "train":
            annotations[-1]["angle_twist"] = row.twists
            annotations[-1]["smpl_joint_img"] = one.joints29_px[:24].tolist()
        else:
            annotations[-1]["smpl_joint_img"] = pixels_with_depth(one, 24, 1)
    return {"categories": [{"id": 1, "name": "person"}], "annotations": annotations, "images": images}


def hp3d(rows: list[Row], split: str) -> dict[str, Any]:
    """Images and annotations, one to one, without ids of images; keypoints in millimetres, no body."""
    count = 28 if split == "train" else 17
    images, annotations = [], []
    for row in rows:
        keypoints = np.full((count, 3), 3000.0)
        chosen = Mpi3dhp.JOINTS_29[count]
        keypoints[list(Mpi3dhp.JOINTS_17[count])] = row.person.joints17 * 1000
        keypoints[list(chosen.values())] = row.person.joints29[list(chosen)] * 1000
        matrix = np.c_[row.photograph.intrinsics, np.zeros(3)]
        images.append({"file_name": row.image, **size_of(row)})
        camera = {"intrinsic_param": matrix.tolist()}
        number = len(annotations)
        annotations.append(
            {"image_id": number, "bbox": row.xywh, "keypoints_cam": keypoints.tolist(), "cam_param": camera}
        )
    return {"images": images, "annotations": annotations}


def people_list(rows: list[Row], joints: int = 29, valid: bool = False, twists: bool = True) -> list[dict[str, Any]]:
    """COCO, MPII, UP-3D and SURREAL: a list of people; millimetres, joint_img with the absolute depth."""
    people = []
    for row in rows:
        one, (focal, centre) = row.person, row.camera
        entry = {
            "img_path": row.image,
            "img_name": row.image.rpartition("/")[2],
            **size_of(row),
            "bbox": one.box.tolist(),
            "f": focal,
            "c": centre,
            "joint_cam_17": (one.joints17 * 1000).tolist(),
            "joint_cam_29": (one.joints29[:joints] * 1000).tolist(),
            "joint_img_29": pixels_with_depth(one, joints, 1000),
            "smpl_param": {"shape": one.betas.tolist(), "pose": one.pose.ravel().tolist()},
        }
        if valid:
            entry["joint_cam_valid"] = np.ones((joints, 3)).tolist()
        if twists:
            entry["angle_twist"] = row.twists
        people.append(entry)
    return people


def save_release(root: Path, file: str, content: Any, folder: str, rows: list[Row], name: Callable = str) -> None:
    """The annotations, and the images below `folder`; `name`: of an image on the disk."""
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    for row in {row.image: row for row in rows}.values():
        row.photograph.save(root / folder / name(row.image))


def save_sequence(root: Path, split: str, name: str, photos: list[Photograph], seed: int = 0, **changed: Any) -> Path:
    """One sequence of 3DPW: photograph f is its image f. The world is turned and moved against each camera.

    `changed`: keys in place of the usual ones, or None: without.
    """
    rng = np.random.default_rng(seed)
    turns = roma.rotvec_to_rotmat(torch.from_numpy(rng.normal(0, 1, (len(photos), 3)))).numpy()
    cameras = np.tile(np.eye(4), (len(photos), 1, 1))
    cameras[:, :3, :3], cameras[:, :3, 3] = turns, rng.normal(0, 2, (len(photos), 3))
    people = range(len(photos[0].people))
    poses, joints = np.zeros((len(people), len(photos), 72)), np.zeros((len(people), len(photos), 72))
    for frame, (photo, camera) in enumerate(zip(photos, cameras, strict=True)):
        for actor, one in enumerate(photo.people):
            root_turn = camera[:3, :3].T @ roma.rotvec_to_rotmat(torch.from_numpy(one.pose[0]).double()).numpy()
            poses[actor, frame] = one.pose.ravel()
            poses[actor, frame, :3] = roma.rotmat_to_rotvec(torch.from_numpy(root_turn)).numpy()
            joints[actor, frame] = ((one.joints29[:24] - camera[:3, 3]) @ camera[:3, :3]).ravel()
        photo.save(root / "imageFiles" / name / f"image_{frame:05d}.jpg")
    content = {
        "sequence": name,
        "genders": ["m", "f"][: len(people)],
        "betas": [photos[0].people[actor].betas.astype(float) for actor in people],
        "poses": list(poses),
        "trans": [np.zeros((len(photos), 3)) for _ in people],
        "jointPositions": list(joints),
        "cam_poses": cameras,
        "cam_intrinsics": photos[0].intrinsics,
        "campose_valid": [np.ones(len(photos), int) for _ in people],
        "poses2d": [np.zeros((len(photos), 3, 18)) for _ in people],
        "img_frame_ids": np.arange(len(photos)) * 2,
    }
    content = {key: value for key, value in (content | changed).items() if value is not None}
    path = root / "sequenceFiles" / split / f"{name}.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))
    return path
