"""The sets of ScoreHypo: Human3.6M, 3DPW, MPI-INF-3DHP, COCO, MPII, UP-3D and SURREAL. Their files, keys and units.

Joints and pixels are those of the files; how they are read is in scorehypo_json.py.
"""

from __future__ import annotations

import re

import numpy as np

from adhmr.body.skeleton import NUM_JOINTS
from adhmr.data.sources.json_columns import Field
from adhmr.data.sources.scorehypo_json import ScoreHypoSet, ScoreHypoSource
from adhmr.data.sources.source import Release

RESEARCH = "non-commercial research, on registration"
MM = 1e-3

#: 24 joints, or the five leaf points as well.
JOINTS = ((29, 3), (24, 3))
#: In pixels; a third column is the absolute depth, which the joints in the camera's frame say better.
PIXELS = ((29, 2), (29, 3), (24, 3), (24, 2))

_SIZE = {"width": Field(("width",), ((1,),)), "height": Field(("height",), ((1,),))}
_SMPL = {"pose": Field(("smpl_param", "pose"), ((24, 3),)), "betas": Field(("smpl_param", "shape"), ((10,),))}
_TWISTS = Field(("angle_twist", "angle"), ((23, 1),), required=False)
_BOX = Field(("bbox",), ((4,),))  # x, y, width, height


class Human36M(ScoreHypoSource):
    """Human3.6M, every 5th or 20th frame of the videos; SMPL fitted to the markers, millimetres."""

    splits = ("train", "test")

    @classmethod
    def describe(cls, split: str) -> ScoreHypoSet:
        sampled = {"train": "Sample_5_train_Human36M_smpl_leaf_twist", "test": "Sample_20_test_Human36M_smpl"}[split]
        return ScoreHypoSet(
            name="Human3.6M",
            licence="academic use only, on registration: vision.imar.ro/human3.6m",
            file=(f"annotations/{sampled}_protocol_2.json", f"{sampled}_protocol_2.json"),
            folder=("images",),
            image=("file_name",),
            people={
                "box": _BOX,
                "pose": Field(("thetas",), ((24, 3),)),
                "betas": Field(("betas",), ((10,),)),
                "joints29": Field(("smpl_joints",), JOINTS, MM),
                "joints17": Field(("h36m_joints",), ((17, 3),), MM),
                "twists": _TWISTS,
            },
            images={
                **_SIZE,
                "focal": Field(("cam_param", "f"), ((2,),)),
                "centre": Field(("cam_param", "c"), ((2,),)),
            },
            group=r"s_\d+(?=_act)",
            # Labels of these sequences of subject 9 are beside the person; the protocol leaves them out.
            wrong=r"s_09_act_(05_subact_02|10_subact_02|13_subact_01)",
        )


class Pw3dJson(ScoreHypoSource):
    """3DPW; the joints are millimetres in the file for training and metres in those for tests, all else is metres."""

    splits = ("train", "test", "oc")

    @classmethod
    def describe(cls, split: str) -> ScoreHypoSet:
        return ScoreHypoSet(
            name="3DPW",
            licence="non-commercial research: virtualhumans.mpi-inf.mpg.de/3DPW",
            file=(f"annotations/3DPW_{split}.json", f"3DPW_{split}.json", f"json/3DPW_{split}_new.json"),
            folder=("imageFiles",),
            image=("sequence", "file_name"),
            people={
                **_SMPL,
                "box": _BOX,
                "transl": Field(("smpl_param", "trans"), ((3,),), required=False),
                "joints29": Field(("smpl_joint_cam",), JOINTS, MM if split == "train" else 1.0),
                "joints29_px": Field(("smpl_joint_img",), PIXELS, required=False),
                "joints17": Field(("h36m_joints",), ((17, 3),)),
                "twists": _TWISTS,
            },
            images={
                **_SIZE,
                "focal": Field(("cam_param", "focal"), ((2,),)),
                "centre": Field(("cam_param", "princpt"), ((2,),)),
            },
            group=r"^[^/]+",
        )


class Mpi3dhp(ScoreHypoSource):
    """MPI-INF-3DHP: marker-less joints without a body; millimetres."""

    splits = ("train", "test")
    #: Of the 28 keypoints (train) and of the 17 of the tests: those that stand for joints of the skeleton. Hips, spine
    #: and hands of the two skeletons are other points.
    JOINTS_29 = {
        28: {0: 4, 4: 19, 5: 24, 7: 20, 8: 25, 12: 5, 16: 9, 17: 14, 18: 10, 19: 15, 20: 11, 21: 16},
        17: {0: 14, 4: 12, 5: 9, 7: 13, 8: 10, 12: 1, 16: 5, 17: 2, 18: 6, 19: 3, 20: 7, 21: 4},
    }
    #: The same of Human3.6M's joints, in their order.
    JOINTS_17 = {
        28: (4, 18, 19, 20, 23, 24, 25, 3, 5, 6, 7, 9, 10, 11, 14, 15, 16),
        17: (14, 11, 12, 13, 8, 9, 10, 15, 1, 16, 0, 5, 6, 7, 2, 3, 4),
    }

    def __init__(self, release: Release) -> None:
        super().__init__(release)
        self._place: int | None = None  # which of the places of an image is this disk's

    @classmethod
    def describe(cls, split: str) -> ScoreHypoSet:
        file = f"annotation_mpi_inf_3dhp_{'train_v2' if split == 'train' else 'test'}.json"
        images = f"mpi_inf_3dhp_{split}_set"
        return ScoreHypoSet(
            name="MPI-INF-3DHP",
            licence="non-commercial: vcai.mpi-inf.mpg.de/3dhp-dataset",
            file=(f"annotations/{file}", file),
            folder=(f"images/{images}", images),
            image=("file_name",),
            people={
                "box": _BOX,
                "keypoints": Field(("keypoints_cam",), ((28, 3),) if split == "train" else ((17, 3),), MM),
            },
            images={
                **_SIZE,
                "camera": Field(("cam_param", "intrinsic_param"), ((3, 3), (3, 4))),
            },
            group=r"T?S\d+",
        )

    def image_path(self, stored: str) -> str:
        """Frames are cut out of videos by each user, and lie where their script put them: as the file says, or below
        imageFrames or imageSequence. The first image that is found says which."""
        places = _places(stored)
        if self._place is None:
            there = (number for number, place in enumerate(places) if (self.image_root / place).exists())
            self._place = next(there, None)
        return stored if self._place is None or self._place >= len(places) else places[self._place]

    def derive(self, columns: dict[str, np.ndarray]) -> None:
        keypoints = columns.pop("keypoints")  # (N, 28 or 17, 3)
        count = keypoints.shape[1]
        joints = np.full((len(keypoints), NUM_JOINTS, 3), np.nan, np.float32)
        chosen = self.JOINTS_29[count]
        joints[:, list(chosen)] = keypoints[:, list(chosen.values())]
        columns["joints29"], columns["joints17"] = joints, keypoints[:, self.JOINTS_17[count]]


def _places(stored: str) -> list[str]:
    """Paths that one frame of MPI-INF-3DHP may have, always in the same order."""
    folder, _, name = stored.rpartition("/")
    places = [stored]
    for images in ("imageFrames", "imageSequence"):
        places.append(re.sub(r"(^|/)(imageFrames|imageSequence|images)(?=/)", rf"\g<1>{images}", stored))
        places.append(f"{folder}/{images}/{name}")
    if found := re.search(r"(T?S\d+)_(Seq\d+)_V(?:ideo)?(\d+)_(\d+)(\.\w+)$", name):
        subject, sequence, video, frame, ending = found.groups()
        for images in ("imageFrames", "imageSequence"):
            places.append(f"{subject}/{sequence}/{images}/video_{video}/{name}")
            places.append(f"{subject}/{sequence}/{images}/video_{video}/frame_{frame}{ending}")
    return places


class _PeopleList(ScoreHypoSource):
    """A file that is one list of people with SMPL pseudo-labels; millimetres. Its `bbox` is not read: sets differ in
    what its four numbers are, and nothing needs it."""

    splits = ("train",)

    @staticmethod
    def people_list(name: str, licence: str, file: str, folder: str, group: str | None = None, **more: Field):
        return ScoreHypoSet(
            name=name,
            licence=licence,
            file=(f"annotations/{file}", file),
            folder=(folder,),
            image=("img_path",),
            people={
                **_SIZE,
                **_SMPL,
                "focal": Field(("f",), ((2,),)),
                "centre": Field(("c",), ((2,),)),
                "joints29": Field(("joint_cam_29",), JOINTS, MM),
                "joints29_px": Field(("joint_img_29",), PIXELS),
                "joints17": Field(("joint_cam_17",), ((17, 3),), MM),
                "twists": _TWISTS,
                **more,
            },
            group=group,
        )


class Coco(_PeopleList):
    """COCO's photographs of people; `joint_cam_valid` says which joints count."""

    @classmethod
    def describe(cls, split: str) -> ScoreHypoSet:
        licence = "images: terms of Flickr, annotations CC BY 4.0: cocodataset.org; SMPL labels: research"
        valid = Field(("joint_cam_valid",), ((29, 1), (29, 3), (24, 3), (24, 1)))
        return cls.people_list("COCO", licence, "person_keypoints_coco.json", "images", confidence=valid)


class Mpii(_PeopleList):
    """MPII Human Pose's photographs of people."""

    @classmethod
    def describe(cls, split: str) -> ScoreHypoSet:
        licence = "non-commercial research: human-pose.mpi-inf.mpg.de"
        return cls.people_list("MPII", licence, "process_db_mpii.json", ".")


class Up3d(_PeopleList):
    """UP-3D's photographs with fitted bodies."""

    @classmethod
    def describe(cls, split: str) -> ScoreHypoSet:
        licence = "research (its code: CC BY-NC 4.0): files.is.tuebingen.mpg.de/classner/up"
        return cls.people_list("UP-3D", licence, "process_db_up3d.json", ".")


class Surreal(_PeopleList):
    """SURREAL's rendered people; the folder of a frame names the motion, which several videos show."""

    @classmethod
    def describe(cls, split: str) -> ScoreHypoSet:
        licence = f"{RESEARCH}: di.ens.fr/willow/research/surreal"
        return cls.people_list("SURREAL", licence, "train_surreal.json", "images", group=r"[^/]+(?=/[^/]*$)")
