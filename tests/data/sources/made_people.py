"""People of the open body, rendered into photographs of a made-up release, with exact labels; and the same body as an
SMPL-X file, whose 22 body joints move just so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import roma
import torch

from adhmr.body.body_file import load_body_file
from adhmr.body.body_model import BodyModel, open_body_path
from adhmr.body.camera import project
from adhmr.body.kinematics import swing_twist
from adhmr.body.smplx_file import SMPLX_FORMAT
from adhmr.data.synthetic.poses import PoseBank, sample_betas
from adhmr.data.synthetic.sets import DOMAINS
from adhmr.visualization.rasterizer import render_mesh

HAND_JOINTS = (28, 43)  # SMPL-X's first middle-finger joints: they stand for SMPL's hands


@dataclass
class MadePerson:
    """Units as in the shards: metres, radians, pixels of the photograph."""

    pose: np.ndarray  # (24, 3); the hands' rotations are zero, as SMPL-X has none
    betas: np.ndarray  # (10,)
    transl: np.ndarray  # (3,)
    joints29: np.ndarray  # (29, 3)
    joints29_px: np.ndarray  # (29, 2)
    joints17: np.ndarray  # (17, 3) made-up Human3.6M joints
    twists: np.ndarray  # (23, 2)
    vertices: np.ndarray  # (V, 3)

    @property
    def box(self) -> np.ndarray:
        """x0, y0, x1, y1 around the joints."""
        return np.concatenate([self.joints29_px.min(0), self.joints29_px.max(0)])


@dataclass
class Photograph:
    image: np.ndarray  # (H, W, 3) uint8 RGB
    intrinsics: np.ndarray  # (3, 3)
    people: list[MadePerson]

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        options = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix == ".jpg" else []
        cv2.imwrite(str(path), self.image[..., ::-1], options)


def photographs(
    count: int,
    people: int = 1,
    size: tuple[int, int] = (480, 640),
    seed: int = 0,
    intrinsics: np.ndarray | None = None,
) -> list[Photograph]:
    """Photographs (height, width) of so many people each, side by side, light on dark."""
    body, rng = BodyModel(), np.random.default_rng(seed)
    bank, spec = PoseBank("train"), DOMAINS["synth-studio"]
    height, width = size
    focal = 1.2 * max(size)
    if intrinsics is None:
        intrinsics = np.array([[focal, 0, width / 2 + 3], [0, focal, height / 2 - 2], [0, 0, 1.0]])
    pictures = []
    for _ in range(count):
        image = np.full((height, width, 3), 40, np.uint8)
        made = []
        for place in range(people):
            pose = np.asarray(bank.sample(rng, spec), np.float32)
            pose[22:] = 0.0
            upright = roma.rotvec_to_rotmat(torch.tensor([np.pi, 0.0, 0.0]))  # the body's y is up, the camera's down
            turned = upright @ roma.rotvec_to_rotmat(torch.tensor(pose[0]))
            pose[0] = roma.rotmat_to_rotvec(turned.float()).numpy()
            aside = (place - (people - 1) / 2) * 1.1
            transl = np.array([aside, 0.1, 4.0 + 0.4 * place + 0.3 * rng.random()], np.float32)
            made.append(_person(body, pose, sample_betas(rng).astype(np.float32), transl, intrinsics))
        for person in sorted(made, key=lambda one: -one.transl[2]):
            image = render_mesh(image, person.vertices, body.faces, intrinsics, (235.0, 225.0, 215.0), 1.0)
        pictures.append(Photograph(image, intrinsics, made))
    return pictures


@torch.no_grad()
def _person(body: BodyModel, pose, betas, transl, intrinsics) -> MadePerson:
    rotations, shape = roma.rotvec_to_rotmat(torch.from_numpy(pose))[None], torch.from_numpy(betas)[None]
    posed = body(rotations, shape, torch.from_numpy(transl)[None])
    joints = posed.joints29[0].numpy()
    h36m = joints[[0, 1, 4, 7, 2, 5, 8, 6, 12, 15, 24, 16, 18, 20, 17, 19, 21]]
    return MadePerson(
        pose=pose,
        betas=betas,
        transl=transl,
        joints29=joints,
        joints29_px=project(joints.astype(np.float64), intrinsics),
        joints17=h36m + 0.01,  # a regressor's joints are near the skeleton's, not on them
        twists=swing_twist(rotations, body.rest_joints29(shape))[0].numpy(),
        vertices=posed.vertices[0].numpy(),
    )


def open_body_as_smplx(path: Path) -> Path:
    """The open body in SMPL-X's format: the same mesh, shapes and body joints; jaw and eyes follow the head, fingers
    the hands. Its 29 joints by the map "smpl" are the open body's own."""
    arrays = load_body_file(open_body_path())
    count = len(arrays["v_template"])
    regressor = np.zeros((55, count), np.float32)
    regressor[:22] = arrays["J_regressor"][:22]
    regressor[22:25] = arrays["J_regressor"][15]
    regressor[25:40], regressor[40:55] = arrays["J_regressor"][22], arrays["J_regressor"][23]
    weights = np.zeros((count, 55), np.float32)
    weights[:, :22] = arrays["weights"][:, :22]
    weights[:, HAND_JOINTS[0]], weights[:, HAND_JOINTS[1]] = arrays["weights"][:, 22], arrays["weights"][:, 23]
    posedirs = np.zeros((count, 3, 486), np.float32)
    posedirs[..., : 21 * 9] = arrays["posedirs"][..., : 21 * 9]
    shapedirs = np.zeros((count, 3, 20), np.float32)
    shapedirs[..., :10] = arrays["shapedirs"][..., :10]
    parents = np.array(SMPLX_FORMAT.parents, np.int64)
    tree = np.stack([np.where(parents < 0, 2**32 - 1, parents), np.arange(55)])
    np.savez(
        path,
        v_template=arrays["v_template"],
        shapedirs=shapedirs,
        posedirs=posedirs,
        J_regressor=regressor,
        weights=weights,
        kintree_table=tree,
        f=arrays["f"],
        hands_meanl=np.zeros(45, np.float32),
        hands_meanr=np.zeros(45, np.float32),
        leaf_vertices=arrays["leaf_vertices"],
        body_id=np.array("open-x"),
    )
    return path
