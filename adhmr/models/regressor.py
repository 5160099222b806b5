"""The regressor: one body an image, without sampling, in the manner of HMR and HMR 2.0; the subject of data cleaning.

Rotations are predicted in the frame of the crop's own camera, for that is what an image shows. Its losses are in
adhmr.objectives.regression.
"""

from typing import NamedTuple

import roma
import torch
from torch import nn

from adhmr.body.skeleton import NUM_BODY_JOINTS, NUM_JOINTS
from adhmr.config.model import RegressorConfig
from adhmr.models.attention import DecoderBlock, initialise
from adhmr.models.denoiser import TokenInput
from adhmr.models.encoder import ImageEncoder, ImageFeatures
from adhmr.models.graph import joint_adjacency, within_hops
from adhmr.models.necks import NUM_BETAS
from adhmr.models.positional import image_sinusoid, sinusoid

#: Half a crop for each metre: a standing person of 1.7 m fills most of a padded crop. Where the camera starts.
TYPICAL_SCALE = 0.9


class RegressedBody(NamedTuple):
    """One body for each of N images; pose and root are in the camera's frame, as labels are."""

    rotations: torch.Tensor  # (N, 24, 3, 3) local rotations, the root's first
    betas: torch.Tensor  # (N, 10)
    root: torch.Tensor  # (N, 3) metres: where the pelvis stands


class RegressorHead(nn.Module):
    """Joint tokens (where the encoder sees them, and their local features) look at each other and at the image memory;
    each rotating joint's token gives its rotation, the mean of tokens and of memory gives shape and camera."""

    def __init__(self, config: RegressorConfig, memory_grid: tuple[int, int]):
        super().__init__()
        adjacency = joint_adjacency()
        coordinates = 3 if config.encoder.depth_head else 2
        self.joint_input = TokenInput(within_hops(adjacency, 2), coordinates, config)
        self.blocks = nn.ModuleList(
            DecoderBlock(config.dim, config.heads, config.ffn, config.dropout) for _ in config.reaches
        )
        self.norm = nn.LayerNorm(config.dim)
        self.body = nn.Linear(2 * config.dim, NUM_BETAS + 3)
        initialise(self, config.initialisation)
        # Every output starts at a standing person that faces the camera: a joint's own layer, for joints turn unlike.
        self.turns = nn.Parameter(torch.zeros(NUM_BODY_JOINTS, config.dim, 6))
        nn.init.zeros_(self.body.weight)
        nn.init.zeros_(self.body.bias)
        standing = torch.eye(3)[:, :2].repeat(NUM_BODY_JOINTS, 1, 1)  # (24, 3, 2) the first two columns
        standing[0, 1, 1] = -1.0  # upright, where the image's y points down
        self.register_buffer("standing", standing, persistent=False)
        allowed = torch.stack([within_hops(adjacency, reach) for reach in config.reaches])
        self.register_buffer("allowed", allowed, persistent=False)  # (blocks, 29, 29)
        self.register_buffer("token_position", sinusoid(torch.arange(NUM_JOINTS), config.dim), persistent=False)
        self.register_buffer("memory_position", image_sinusoid(*memory_grid, config.dim), persistent=False)

    def forward(self, features: ImageFeatures) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """features of N crops -> rotations (N, 24, 3, 3) in the crop's frame, the root's first; betas (N, 10); camera
        (N, 3): the logarithm of the scale over TYPICAL_SCALE, and the root beside the encoder's, in [-1, 1]."""
        seen = (
            features.joints2d
            if features.depth is None
            else torch.cat([features.joints2d, features.depth[..., None]], -1)
        )
        embedded = self.joint_input(seen.flatten(1))  # (N, 29, pose_dim)
        tokens = torch.cat([embedded, features.local[:, :NUM_JOINTS].to(embedded.dtype)], -1).float()[:, None]
        for block, allowed in zip(self.blocks, self.allowed, strict=True):
            tokens = block(tokens, features.memory, self.token_position, self.memory_position, allowed)
        tokens = self.norm(tokens[:, 0]).float()  # (N, 29, dim)
        turns = torch.einsum("njc,jcr->njr", tokens[:, :NUM_BODY_JOINTS], self.turns).float()
        rotations = roma.special_gramschmidt(turns.unflatten(-1, (3, 2)) + self.standing)
        whole = self.body(torch.cat([tokens.mean(1), features.memory.mean(1)], -1)).float()
        return rotations, features.betas + whole[:, :NUM_BETAS], whole[:, NUM_BETAS:]


class Regressor(nn.Module):
    """Crop -> body: `.encoder` and `.head`. The caller decides whether `.encoder` is trained."""

    def __init__(self, config: RegressorConfig):
        super().__init__()
        self.config = config
        self.encoder = ImageEncoder(config.encoder)
        self.head = RegressorHead(config, config.encoder.memory_grid(config.crop_size, config.crop_size))

    def forward(self, image: torch.Tensor, intrinsics: torch.Tensor) -> tuple[ImageFeatures, RegressedBody]:
        """image (N, 3, S, S) RGB, uint8 or float in 0..255; intrinsics (N, 3, 3) of the crops, pixels."""
        size = image.shape[-1]
        features = self.encoder(image)
        rotations, betas, camera = self.head(features)
        turned = crop_frame(intrinsics, size).transpose(-1, -2) @ rotations[:, 0]
        rotations = torch.cat([turned[:, None], rotations[:, 1:]], 1)
        root = root_position(camera[:, 0], features.joints2d[:, 0] + camera[:, 1:], intrinsics, size)
        return features, RegressedBody(rotations, betas, root)


def crop_frame(intrinsics: torch.Tensor, size: int) -> torch.Tensor:
    """The rotation (N, 3, 3) from the camera's frame to the crop's own camera: one that looks at the middle of the crop
    of `size` pixels, and whose x axis is the crop's. It holds a crop's in-plane rotation, and what perspective does to
    people beside the image's middle; intrinsics (N, 3, 3) are of the crop."""
    middle = intrinsics.new_tensor(
        [[size / 2, size / 2, 1.0], [1.0, 0.0, 0.0]]
    ).T  # the middle, and a pixel to the right
    rays = torch.linalg.inv(intrinsics) @ middle  # (N, 3, 2)
    forward = nn.functional.normalize(rays[..., 0], dim=-1)
    right = rays[..., 1] - (rays[..., 1] * forward).sum(-1, keepdim=True) * forward
    right = nn.functional.normalize(right, dim=-1)
    return torch.stack([right, torch.linalg.cross(forward, right), forward], -2)


def root_position(log_scale: torch.Tensor, point: torch.Tensor, intrinsics: torch.Tensor, size: int) -> torch.Tensor:
    """Where a pelvis stands (N, 3), metres, that is seen at `point` (N, 2) in [-1, 1] of a crop of `size` pixels and
    where a metre is exp(log_scale) TYPICAL_SCALE half crops long: HMR's weak-perspective camera, in perspective."""
    inverse = torch.linalg.inv(intrinsics)
    focal = torch.linalg.det(intrinsics[:, :2, :2]).abs().sqrt()  # pixels of the crop; a crop may be turned
    depth = focal / (TYPICAL_SCALE * torch.exp(log_scale.clamp(-3.0, 3.0)) * size / 2)
    pixel = torch.cat([(point + 1.0) * (size / 2), torch.ones_like(point[:, :1])], -1)  # (N, 3)
    ray = (inverse @ pixel[..., None])[..., 0]
    return ray / ray[:, 2:] * depth[:, None]
