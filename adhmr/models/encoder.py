"""The image encoder: a timm backbone, a neck, heatmaps, 29 joint estimates, 52 local features, betas.

The two necks are in necks.py; what happens to the features afterwards is in denoiser.py and scorer.py.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

import adhmr.models.torchvision_operators  # noqa: F401  (must come before timm)
from adhmr.body.skeleton import MAIN_CHILD, NUM_JOINTS, NUM_TWISTS, PARENTS
from adhmr.config.model import EncoderConfig
from adhmr.models.necks import FpnNeck, HRNetNeck

RGB_MEAN, RGB_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: What the official weights were trained with: these constants in this order, on RGB images.
LEGACY_MEAN, LEGACY_STD = (0.406, 0.457, 0.480), (0.225, 0.224, 0.229)


class ImageFeatures(NamedTuple):
    """What an encoder gives of N crops; h x w is the local map, T the number of memory tokens.

    None: what that encoder has no part for (HMR-Scorer's vision transformer sees no joints), or what stored features,
    which only the denoiser reads, leave out.
    """

    memory: torch.Tensor  # (N, T, C)
    local_map: torch.Tensor | None  # (N, C_local, h, w)
    local: torch.Tensor | None  # (N, 52, C_local) at the joints and the bones' midpoints
    joints2d: torch.Tensor | None  # (N, 29, 2) in [-1, 1] over the crop
    depth: torch.Tensor | None  # (N, 29) metres relative to the root
    heatmap_logits: torch.Tensor | None  # (N, 29, h, w)
    betas: torch.Tensor | None  # (N, 10)

    def index(self, rows: torch.Tensor | slice) -> "ImageFeatures":
        """The features of some images."""
        return ImageFeatures(*(None if part is None else part[rows] for part in self))

    def detach(self) -> "ImageFeatures":
        """The same values without gradient."""
        return ImageFeatures(*(None if part is None else part.detach() for part in self))


def sample_local(local_map: torch.Tensor, points: torch.Tensor, align_corners: bool) -> torch.Tensor:
    """Bilinear features of local_map (N, C, h, w) at points (N, ..., 2) in [-1, 1] -> (N, ..., C)."""
    flat = points.flatten(1, -2)[:, None]  # (N, 1, P, 2)
    sampled = F.grid_sample(local_map.float(), flat.float(), mode="bilinear", align_corners=align_corners)
    return sampled[:, :, 0].transpose(1, 2).unflatten(1, points.shape[1:-1])


class ImageEncoder(nn.Module):
    """Crops -> ImageFeatures."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.neck = (HRNetNeck if config.neck == "hrnet" else FpnNeck)(config)
        self.heatmaps = nn.Conv2d(config.local_dim, NUM_JOINTS, 1)
        self.depth_maps = nn.Conv2d(config.local_dim, NUM_JOINTS, 1) if config.depth_head else None
        mean, std = (LEGACY_MEAN, LEGACY_STD) if config.legacy_channel_order else (RGB_MEAN, RGB_STD)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        twists = torch.arange(1, NUM_TWISTS + 1)
        ends = torch.tensor(PARENTS) if config.legacy_bone_points else torch.tensor(MAIN_CHILD)
        self.register_buffer("bone_ends", torch.stack([twists, ends[twists]]), persistent=False)  # (2, 23)

    @property
    def blocks(self) -> list[nn.Module]:
        """The parts that hold most of the activations, as a transformer's blocks do."""
        return self.neck.blocks

    def forward(self, image: torch.Tensor) -> ImageFeatures:
        """image (N, 3, S, S) RGB, uint8 or float in 0..255."""
        return self.encode((image.float() / 255.0 - self.mean) / self.std)

    def encode(self, normalised: torch.Tensor) -> ImageFeatures:
        """The features of images (N, 3, S, S) that are already normalised."""
        memory_map, local_map, betas = self.neck(normalised.contiguous(memory_format=torch.channels_last))
        memory = memory_map.flatten(2).transpose(1, 2).float()
        logits = self.heatmaps(local_map).float()
        probability = (logits * self.neck.heatmap_scale).flatten(2).softmax(-1).view_as(logits)  # (N, 29, h, w)
        joints2d = self._expected_points(probability)
        depth = None
        if self.depth_maps is not None:
            depth = (probability * self.depth_maps(local_map).float()).sum((-1, -2))
        local_map = local_map.float()
        local = sample_local(local_map, self.token_points(joints2d), self.config.official_grid)
        betas = None if betas is None else betas.float()
        return ImageFeatures(memory, local_map, local, joints2d, depth, logits, betas)

    def token_points(self, joints2d: torch.Tensor) -> torch.Tensor:
        """Where the 52 tokens look: joints (..., 29, 2) -> (..., 52, 2), the joints themselves and for each twist the
        midpoint of its bone."""
        middle = joints2d[..., self.bone_ends, :].mean(-3)  # (..., 23, 2)
        return torch.cat([joints2d, middle.flip(-1) if self.config.legacy_bone_points else middle], -2)

    def _expected_points(self, probability: torch.Tensor) -> torch.Tensor:
        """Soft-argmax of (N, 29, h, w): cell centres over the crop's [-1, 1], or the official col/w convention."""
        offset = 0.0 if self.config.official_grid else 0.5

        def expected(marginal: torch.Tensor) -> torch.Tensor:
            cells = torch.arange(marginal.shape[-1], device=marginal.device) + offset
            return (marginal * (2.0 * cells / marginal.shape[-1] - 1.0)).sum(-1)

        return torch.stack([expected(probability.sum(-2)), expected(probability.sum(-1))], -1)
