"""Hypotheses of the human mesh for a batch of crops: noise by key, sampling, inverse kinematics. Scoring and errors
live beside this file; the sampler itself in adhmr.diffusion."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from adhmr.body.body_model import BodyModel
from adhmr.body.camera import joints_from_uvd
from adhmr.body.codec import PoseCodec
from adhmr.body.hypotheses import Hypotheses
from adhmr.body.kinematics import inverse_kinematics
from adhmr.config.common import SamplerConfig
from adhmr.data.randomness import generator_for
from adhmr.diffusion.sampler import JOINT_DIM, FreshNoise, ddim_sample
from adhmr.models.base_model import BaseModel
from adhmr.models.encoder import ImageFeatures

POSE_SIZE = 133  # 29 joints x 3 + 23 twists x 2: the size of x0
PAPER_SAMPLER = SamplerConfig()


def hypothesis_noise(seed: int, keys: list[str], count: int) -> Tensor:
    """(N, count, 133) standard normal noise; a function of (seed, key, hypothesis) alone, so that any batch, any
    worker and any larger `count` give the same first hypotheses. Hypothesis 0 is zero."""
    noise = np.stack(
        [generator_for(seed, "hypotheses", key).standard_normal((count, POSE_SIZE), np.float32) for key in keys]
    )
    noise[:, 0] = 0.0
    return torch.from_numpy(noise)


def fresh_noise(seed: int, keys: list[str], count: int) -> FreshNoise:
    """What stochastic sampling adds in each step, (N, count, 133) by the step's number; keyed as `hypothesis_noise`."""

    @functools.cache
    def draw(step: int) -> Tensor:
        drawn = [
            generator_for(seed, "fresh noise", step, key).standard_normal((count, POSE_SIZE), np.float32)
            for key in keys
        ]
        return torch.from_numpy(np.stack(drawn))

    return draw


def blocks(images: int, count: int, limit: int) -> Iterator[tuple[slice, slice]]:
    """Cuts (images, count hypotheses each) into blocks of at most `limit` hypotheses: of whole images where one fits,
    else of a part of one image."""
    per_image, several = min(count, limit), max(1, limit // count)
    for row in range(0, images, several):
        for column in range(0, count, per_image):
            yield slice(row, row + several), slice(column, column + per_image)


@torch.no_grad()
def sample_hypotheses(
    model: BaseModel,
    features: ImageFeatures,
    noise: Tensor,
    crop_size: int,
    precision: str = "fp32",
    sampler: SamplerConfig = PAPER_SAMPLER,
    fresh: FreshNoise | None = None,
    per_call: int | None = None,
) -> Hypotheses:
    """Sample one hypothesis for every row of `noise` (N, M, 133) by DDIM: by default 4 network calls. A sampler with
    eta above 0 needs `fresh`, see `fresh_noise`. `per_call`: at most so many hypotheses in one network call."""
    device = features.joints2d.device
    images, count = noise.shape[:2]
    x = torch.empty(noise.shape, device=device)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        for rows, columns in blocks(images, count, per_call or images * count):
            noise_here = noise[rows, columns].to(device)
            drawn = ddim_sample(
                model.denoiser,
                features.index(rows),
                noise_here.shape[1],
                noise_here,
                sampler.steps,
                zero_first=columns.start == 0,
                eta=sampler.eta,
                fresh_noise=None if fresh is None else lambda step: fresh(step)[rows, columns],  # noqa: B023
            )
            x[rows, columns] = torch.cat(drawn, -1)
    uvd, twists = PoseCodec(crop_size).decode(x[..., :JOINT_DIM], x[..., JOINT_DIM:])
    return Hypotheses(uvd, twists)


def pose_hypotheses(
    body: BodyModel,
    hypotheses: Hypotheses,
    betas: Tensor,
    intrinsics: Tensor,
    root_depth: Tensor,
    method: str = "naive",
) -> Tensor:
    """Joint rotations (N, M, 24, 3, 3) of hypotheses: back-projection with the crop's intrinsics (N, 3, 3) and the
    root depth, (N,) or (N, M) metres, then inverse kinematics with the shape betas (N, 10)."""
    number, count = hypotheses.uvd.shape[:2]
    joints = joints_from_uvd(hypotheses.uvd, intrinsics, root_depth)  # (N, M, 29, 3) metres
    rest = body.rest_joints29(betas)[:, None].expand(-1, count, -1, -1)  # (N, M, 29, 3)
    rotations = inverse_kinematics(
        joints.flatten(0, 1), hypotheses.twists.flatten(0, 1), rest.flatten(0, 1), method=method
    )
    return rotations.unflatten(0, (number, count))


def place_bodies(
    body: BodyModel, hypotheses: Hypotheses, betas: Tensor, intrinsics: Tensor, root_depth: Tensor
) -> Tensor:
    """Translations (N, M, 3) metres with which posed bodies of shape betas (N, 10) stand in the camera: the pelvis is
    where the hypothesis sees it in a crop of these intrinsics (N, 3, 3), at the root depth (N,) or (N, M) metres."""
    pelvis = joints_from_uvd(hypotheses.uvd[:, :, :1], intrinsics, root_depth)[:, :, 0]  # (N, M, 3)
    return pelvis - body.rest_joints29(betas)[:, None, 0]
