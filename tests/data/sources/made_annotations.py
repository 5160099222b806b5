"""Made people in the layouts of OSX's annotation files: Human3.6M in the world, COCO and MPII with fits, and EHF."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from adhmr.data.sources.ehf import INTRINSICS, ROTATION, TRANSLATION
from adhmr.data.sources.human36m_osx import LEFT_FIRST, PARTS
from tests.data.sources.made_people import MadePerson, Photograph

WORLD = {"R": cv2.Rodrigues(np.array([1.4, -0.6, 0.3]))[0], "t": np.array([310.0, -820.0, 4700.0])}  # to camera, mm


def fit_of(person: MadePerson, world: bool = False) -> dict[str, list]:
    """NeuralAnnot's SMPL-X parameters, in the camera's frame or in WORLD."""
    root, transl = person.pose[0], person.transl
    if world:
        rest = person.joints29[0] - person.transl  # the pelvis of the unposed body
        root = cv2.Rodrigues(WORLD["R"].T @ cv2.Rodrigues(root.astype(np.float64))[0])[0][:, 0]
        transl = WORLD["R"].T @ (person.joints29[0] - WORLD["t"] / 1000) - rest
    parts = {"root_pose": root, "body_pose": person.pose[1:22], "shape": person.betas, "trans": transl}
    parts |= {"lhand_pose": np.zeros(45), "rhand_pose": np.zeros(45), "jaw_pose": np.zeros(3), "expr": np.zeros(10)}
    return {key: np.ravel(value).astype(float).tolist() for key, value in parts.items()}


def write_h36m(root: Path, photographs: list[Photograph], subjects: tuple[int, ...] = (1, 5, 6, 7, 8)) -> None:
    """One photograph a subject and frame: frames 0 and 1 of action 2, subaction 1, seen by cameras 1 and 4; both
    cameras stand in the same place."""
    pictures = iter(photographs)
    for subject in subjects:
        images, annotations, joints, fits = [], [], {}, {}
        for frame in (0, 1):
            picture = next(pictures)
            person = picture.people[0]
            in_world = (person.joints17 * 1000 - WORLD["t"]) @ WORLD["R"]  # mm
            joints[str(frame)] = in_world[np.argsort(LEFT_FIRST)].tolist()
            fits[str(frame)] = fit_of(person, world=True)
            for camera in (1, 4):
                number = subject * 1000 + frame * 10 + camera
                folder = f"s_{subject:02d}_act_02_subact_01_ca_{camera:02d}"
                name = f"{folder}/{folder}_{frame + 1:06d}.jpg"
                picture.save(root / "images" / name)
                place = {"subject": subject, "action_idx": 2, "subaction_idx": 1, "frame_idx": frame}
                height, width = picture.image.shape[:2]
                images.append({"id": number, "file_name": name, "width": width, "height": height, "cam_idx": camera})
                images[-1] |= place
                box = np.concatenate([person.box[:2], person.box[2:] - person.box[:2]])
                annotations.append({"id": number, "image_id": number, "bbox": box.tolist()})
        matrix = picture.intrinsics
        camera = {"R": WORLD["R"].tolist(), "t": WORLD["t"].tolist()}
        camera |= {"f": [matrix[0, 0], matrix[1, 1]], "c": matrix[:2, 2].tolist()}
        contents = {
            "data": {"images": images, "annotations": annotations},
            "camera": {"1": camera, "4": camera},
            "joint_3d": {"2": {"1": joints}},
            "SMPLX_NeuralAnnot": {"2": {"1": fits}},
        }
        for part in PARTS:
            write_json(root / f"annotations/Human36M_subject{subject}_{part}.json", contents[part])


COCO_JOINTS = {5: 16, 6: 17, 7: 18, 8: 19, 9: 20, 10: 21, 11: 1, 12: 2, 13: 4, 14: 5, 15: 7, 16: 8}
MPII_JOINTS = {
    **{0: 8, 1: 5, 2: 2, 3: 1, 4: 4, 5: 7, 6: 0, 9: 24},
    **{10: 21, 11: 19, 12: 17, 13: 16, 14: 18, 15: 20},
}


def coco_files(photographs: list[Photograph], joints: dict[int, int], name: str) -> tuple[dict, dict]:
    """The annotation file and the fits of all people; annotations are numbered from 100, points of other skeletons are
    two pixels beside the joints. name: of an image, with {n}."""
    images, annotations, fits = [], [], {}
    for n, picture in enumerate(photographs):
        height, width = picture.image.shape[:2]
        images.append({"id": n + 1, "file_name": name.format(n=n), "height": height, "width": width})
        for person in picture.people:
            number, points = 100 + len(annotations), np.zeros((max(joints) + 1, 3))
            points[list(joints), :2] = person.joints29_px[list(joints.values())] + 2
            points[list(joints), 2] = 2
            feet = np.zeros((6, 3))
            feet[[0, 3], :2], feet[[0, 3], 2] = person.joints29_px[[27, 28]], 2
            box = np.concatenate([person.box[:2], person.box[2:] - person.box[:2]])
            annotation = {"id": number, "image_id": n + 1, "iscrowd": 0, "num_keypoints": 12, "bbox": box.tolist()}
            annotations.append(annotation | {"keypoints": points.ravel().tolist(), "foot_kpts": feet.ravel().tolist()})
            camera = {"focal": np.diag(picture.intrinsics)[:2].tolist(), "princpt": picture.intrinsics[:2, 2].tolist()}
            fits[str(number)] = {"smplx_param": fit_of(person), "cam_param": camera}
    return {"images": images, "annotations": annotations}, fits


def write_ehf(root: Path, photographs: list[Photograph], binary: bool) -> None:
    """Meshes, images and EHF.json of photographs with EHF's camera."""
    images, annotations = [], []
    turn = cv2.Rodrigues(np.array(ROTATION))[0]
    for n, picture in enumerate(photographs, 1):
        assert np.allclose(picture.intrinsics, INTRINSICS)
        picture.save(root / f"{n:02d}_img.jpg")
        person = picture.people[0]
        write_ply(root / f"{n:02d}_align.ply", (person.vertices - np.array(TRANSLATION)) @ turn, binary)
        box = np.concatenate([person.box[:2], person.box[2:] - person.box[:2]]).tolist()
        images.append({"id": n, "file_name": f"{n:02d}_img.jpg", "height": 1200, "width": 1600})
        annotations.append({"id": n, "image_id": n, "body_bbox": box})
    write_json(root / "EHF.json", {"images": images, "annotations": annotations})


def write_ply(path: Path, vertices: np.ndarray, binary: bool) -> None:
    """Vertices with a colour each, and one face."""
    form = "binary_little_endian" if binary else "ascii"
    head = f"ply\nformat {form} 1.0\ncomment made\nelement vertex {len(vertices)}\n"
    head += "".join(f"property float {axis}\n" for axis in "xyz") + "property uchar red\n"
    head += "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    if binary:
        rows = np.zeros(len(vertices), [("at", "<f4", 3), ("red", "u1")])
        rows["at"], rows["red"] = vertices, 7
        content = rows.tobytes() + bytes([3]) + np.arange(3, dtype="<i4").tobytes()
    else:
        content = "".join(f"{x:.6f} {y:.6f} {z:.6f} 7\n" for x, y, z in vertices).encode() + b"3 0 1 2\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head.encode() + content)


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path
