"""How fast the errors of many hypotheses an image are counted: posing of the meshes, and the four errors of each.

In turn with it, in the same run, the former way: smplx's layer poses the hypotheses and, in each block of them, the
target once more. Beside both what else an evaluation does for a hypothesis: sampling with the tiny model (random
weights cost the same) and inverse kinematics. Errors of both ways are compared. Seconds are the process's own, on a GPU
those of the clock. The last line is JSON.

    python tools/benchmark/evaluation.py [--images 2 --hypotheses 200 --rounds 5 --threads 1 --precision bf16]
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import roma
import torch
from torch import Tensor

from adhmr.body.body_model import BodyModel
from adhmr.body.kinematics import inverse_kinematics, swing_twist
from adhmr.body.vertex_subset import VertexSubset
from adhmr.config.loading import load_config
from adhmr.config.model import BaseModelConfig
from adhmr.models.base_model import BaseModel
from adhmr.preference.hypotheses import blocks, hypothesis_noise, sample_hypotheses
from adhmr.preference.mesh_errors import mesh_errors

REPOSITORY = Path(__file__).resolve().parents[2]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def distance(predicted: Tensor, target: Tensor) -> Tensor:
    x, y, z = (predicted - target).unbind(-1)
    return torch.addcmul(torch.addcmul(x.square(), y, y), z, z).sqrt().mean(-1)


def aligned(predicted: Tensor, target: Tensor) -> Tensor:
    """Umeyama's alignment, along the coordinates of each vertex."""
    mean, target_mean = predicted.mean(-2, keepdim=True), target.mean(-2, keepdim=True)
    centred, target_centred = predicted - mean, target - target_mean
    covariance = target_centred.transpose(-1, -2) @ centred
    rotation = roma.special_procrustes(covariance)
    variance = torch.linalg.vector_norm(centred.flatten(-2), dim=-1).square()
    scale = (rotation * covariance).sum((-1, -2)) / variance
    return centred @ (scale[..., None, None] * rotation).transpose(-1, -2) + target_mean


@torch.no_grad()
def former(body: BodyModel, rotations: Tensor, betas: Tensor, target_rotations: Tensor, target_betas: Tensor) -> Tensor:
    """(N, M, 4) metres, in blocks of 64 bodies."""
    number, count = rotations.shape[:2]
    errors = torch.empty(number, count, 4, device=rotations.device)
    for rows, columns in blocks(number, count, 64):
        some = rotations[rows, columns]
        shape = betas[rows, None].expand(-1, some.shape[1], -1)
        posed = body(some.flatten(0, 1), shape.flatten(0, 1))
        target = body(target_rotations[rows], target_betas[rows])
        vertices, target_vertices = posed.vertices.unflatten(0, some.shape[:2]), target.vertices[:, None]
        joints = posed.joints29[:, :24].unflatten(0, some.shape[:2])
        target_joints = target.joints29[:, None, :24]
        pelvis, target_pelvis = joints[..., :1, :], target_joints[..., :1, :]
        errors[rows, columns] = torch.stack(
            [
                distance(vertices, target_vertices + (pelvis - target_pelvis)),
                distance(joints - pelvis, target_joints - target_pelvis),
                distance(aligned(vertices, target_vertices), target_vertices),
                distance(aligned(joints, target_joints), target_joints),
            ],
            -1,
        )
    return errors


def seconds(run: Callable[[], object]) -> float:
    """Of all threads together; on a GPU until it is idle."""
    if DEVICE == "cpu":
        begun = time.process_time()
        run()
        return time.process_time() - begun
    torch.cuda.synchronize()
    begun = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - begun


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--hypotheses", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16"])
    parser.add_argument("--body", type=Path, help="an SMPL-format file; default: the open body")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    number, count = given.images, given.hypotheses

    body = BodyModel(given.body).to(DEVICE)
    meshes = VertexSubset(body).to(DEVICE)
    pose = 0.3 * torch.randn(number, 1, 24, 3) + 0.1 * torch.randn(number, count, 24, 3)  # radians
    rotations = roma.rotvec_to_rotmat(pose).to(DEVICE)
    betas = torch.randn(number, 10, device=DEVICE)
    bodies = rotations, betas, rotations[:, 0], betas + 0.3
    flat, shape = rotations.flatten(0, 1), betas.repeat_interleave(count, 0)
    rest, joints = body.rest_joints29(shape), body.joints29(flat, shape)
    twists = swing_twist(flat, rest)
    model = BaseModel(load_config(REPOSITORY / "configs/models/tiny.yaml", [], BaseModelConfig)).to(DEVICE).eval()
    size = model.config.crop_size
    images = torch.randint(0, 255, (number, 3, size, size), dtype=torch.uint8, device=DEVICE)
    features = model.encoder(images)
    noise = hypothesis_noise(0, [str(image) for image in range(number)], count)

    ways: dict[str, Callable[[], object]] = {
        "former errors": lambda: former(body, *bodies),
        "errors": lambda: mesh_errors(meshes, *bodies),
        "inverse kinematics": lambda: inverse_kinematics(joints, twists, rest),
        "sampling": lambda: sample_hypotheses(model, features, noise, size, given.precision),
    }
    difference = 1000.0 * (former(body, *bodies) - mesh_errors(meshes, *bodies)).abs().max().item()  # mm
    for run in ways.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(given.rounds):
        for name, run in ways.items():
            taken[name].append(1000.0 * seconds(run) / (number * count))
    ratio = median(old / new for old, new in zip(taken["former errors"], taken["errors"]))
    for name, values in taken.items():
        print(f"{name:20s} {median(values):8.3f} ms a hypothesis ({min(values):.3f} to {max(values):.3f})")
    print(f"errors: {ratio:.1f} times as fast as the former way, at most {difference:.1e} mm from it")
    figures = {name: {"median": median(values), "least": min(values)} for name, values in taken.items()}
    about = {"device": DEVICE, "vertices": body.num_vertices, **vars(given), "body": str(given.body or "open body")}
    print(json.dumps({**about, "ms": figures, "ratio": ratio, "difference_mm": difference}))


if __name__ == "__main__":
    main()
