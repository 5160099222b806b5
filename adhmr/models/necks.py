"""Backbone and neck together: image -> memory map, local map, betas. Heatmaps and sampling are in encoder.py."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

import adhmr.models.torchvision_operators  # isort: skip  # noqa: F401  (must come before timm)
import timm
from timm.models.resnet import Bottleneck

from adhmr.config.model import EncoderConfig
from adhmr.errors import AdhmrError

NUM_BETAS = 10


def _backbone(config: EncoderConfig, **options: object) -> nn.Module:
    """A timm feature extractor without pretrained weights (they come from files, never from the network)."""
    try:
        return timm.create_model(
            config.backbone, features_only=True, pretrained=False, **(options | config.backbone_options)
        )
    except (RuntimeError, TypeError, AttributeError) as error:
        raise AdhmrError(f"encoder.backbone: timm cannot make feature maps of '{config.backbone}' ({error})") from error


def _residual_blocks(module: nn.Module) -> list[nn.Module]:
    """The blocks that a timm backbone's stages are chains of; a stage of another kind is one itself."""
    blocks: list[nn.Module] = []
    for stage in module.children():
        chain = getattr(stage, "blocks", stage)
        if isinstance(chain, nn.Sequential):
            blocks += _residual_blocks(chain)
        elif not isinstance(stage, nn.ModuleList) and _layers(stage) > 1:  # HRNet calls the parts of such lists
            blocks.append(stage)
    return blocks


def _layers(module: nn.Module) -> int:
    """How many parts of it have parameters of their own."""
    return sum(any(True for _ in part.parameters(recurse=False)) for part in module.modules())


class FpnNeck(nn.Module):
    """Top-down fusion of strides 4 to 32 into a stride-4 local map, and stride-16 memory, for any timm backbone."""

    heatmap_scale = 1.0

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.backbone = _backbone(config)
        strides = self.backbone.feature_info.reduction()
        if not {4, 8, 16, 32} <= set(strides):
            raise AdhmrError(f"encoder.backbone: '{config.backbone}' has strides {strides}; neck fpn needs 4 to 32")
        self.levels = [strides.index(stride) for stride in (4, 8, 16, 32)]
        channels = [self.backbone.feature_info.channels()[level] for level in self.levels]
        self.laterals = nn.ModuleList(nn.Conv2d(width, config.local_dim, 1) for width in channels)
        self.smooth = nn.Sequential(
            nn.Conv2d(config.local_dim, config.local_dim, 3, padding=1, bias=False),
            nn.BatchNorm2d(config.local_dim),
            nn.ReLU(),
        )
        self.memory16 = nn.Conv2d(channels[2], config.memory_dim, 1, bias=False)
        self.memory32 = nn.Conv2d(channels[3], config.memory_dim, 1, bias=False)
        self.memory_norm = nn.BatchNorm2d(config.memory_dim)
        self.betas = nn.Linear(channels[3], NUM_BETAS)
        nn.init.zeros_(self.betas.weight)  # the mean shape until something is known

    @property
    def blocks(self) -> list[nn.Module]:
        return _residual_blocks(self.backbone)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """image (N, 3, S, S) normalised -> memory (N, C, S/16, S/16), local (N, C_local, S/4, S/4), betas (N, 10)."""
        maps = self.backbone(image)
        maps = [maps[level] for level in self.levels]
        local = self.laterals[3](maps[3])
        for lateral, finer in zip(reversed(self.laterals[:3]), reversed(maps[:3]), strict=True):
            local = lateral(finer) + F.interpolate(local, scale_factor=2, mode="nearest")
        coarse = F.interpolate(self.memory32(maps[3]), scale_factor=2, mode="nearest")
        memory = self.memory_norm(self.memory16(maps[2]) + coarse)
        return memory, self.smooth(local), self.betas(maps[3].mean((-1, -2)))


class HRNetNeck(nn.Module):
    """The paper's: HRNet-W48, the classification fusion to 1024 x S/32 x S/32, memory and betas from it.

    With betas_head false (ScoreHypo's ScoreNet) it gives None for betas.
    """

    heatmap_scale = 15.0  # the heatmaps' softmax is taken of 15 times the logits

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.backbone = _backbone(config, feature_location="", out_indices=(1, 2, 3, 4))
        branches = self.backbone.feature_info.channels()  # 48, 96, 192, 384
        raised = (128, 256, 512, 1024)
        self.increase = nn.ModuleList(
            Bottleneck(
                width,
                wide // Bottleneck.expansion,
                downsample=nn.Sequential(nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide)),
            )
            for width, wide in zip(branches, raised, strict=True)
        )
        self.reduce = nn.ModuleList(
            nn.Sequential(nn.Conv2d(fine, coarse, 3, stride=2, padding=1), nn.BatchNorm2d(coarse), nn.ReLU())
            for fine, coarse in pairwise(raised)
        )
        self.betas_head = config.betas_head
        if config.betas_head:
            self.betas_map = nn.Sequential(nn.Conv2d(raised[-1], 2048, 1), nn.BatchNorm2d(2048), nn.ReLU())
            self.betas = nn.Linear(2048, NUM_BETAS)
            self.register_buffer("mean_betas", torch.zeros(NUM_BETAS))
        self.memory = nn.Conv2d(raised[-1], config.memory_dim, 1)
        self.local = nn.Conv2d(branches[0], config.local_dim, 1)

    @property
    def blocks(self) -> list[nn.Module]:
        return [*_residual_blocks(self.backbone), *self.increase]

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """image (N, 3, S, S) normalised -> memory (N, C, S/32, S/32), local (N, C_local, S/4, S/4), betas (N, 10)."""
        branches = self.backbone(image)
        fused = self.increase[0](branches[0])
        for reduce, increase, branch in zip(self.reduce, self.increase[1:], branches[1:], strict=True):
            fused = increase(branch) + reduce(fused)
        betas = self.betas(self.betas_map(fused).mean((-1, -2))) + self.mean_betas if self.betas_head else None
        return self.memory(fused), self.local(branches[0]), betas
