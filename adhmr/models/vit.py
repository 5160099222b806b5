"""HMR-Scorer's image encoder: a vision transformer after ViTPose, whose blocks are timm's.

Names and shapes of the parameters are the official ones, so that their weights load as they are. What is made of the
tokens is in scorer.py.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

import adhmr.models.torchvision_operators  # isort: skip  # noqa: F401  (must come before timm)
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Block

from adhmr.config.model import ViTConfig
from adhmr.models.encoder import RGB_MEAN, RGB_STD

_layer_norm = partial(nn.LayerNorm, eps=1e-6)
LEGACY_PADDING = 2  # pixels around the image, on the first two sides of the patches only: the others are cut off


class ViTEncoder(nn.Module):
    """Crops -> a map of tokens. 85,818,624 parameters at the default size (ViT-B).

    The position table has one entry more than there are patches, from ViTPose's class token: it is added to every
    patch. The task tokens, which the pose networks that this encoder comes from read, get no position.
    """

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.config = config
        self.grid = config.memory_grid(*config.input_size)
        self.patch_embed = PatchEmbed(config.input_size, config.patch, 3, config.dim, strict_img_size=False)
        if config.legacy_patch_padding:
            self.patch_embed.proj.padding = (LEGACY_PADDING, LEGACY_PADDING)
        self.task_tokens = nn.Parameter(torch.zeros(1, config.task_tokens, config.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid[0] * self.grid[1], config.dim))
        for table in (self.task_tokens, self.pos_embed):
            nn.init.trunc_normal_(table, std=0.02)
        rates = [config.drop_path * block / max(config.depth - 1, 1) for block in range(config.depth)]
        self.blocks = nn.Sequential(
            *(Block(config.dim, config.heads, qkv_bias=True, drop_path=rate, norm_layer=_layer_norm) for rate in rates)
        )
        self.last_norm = _layer_norm(config.dim)
        mean, std = ((0.0,) * 3, (1.0,) * 3) if config.legacy_unit_range else (RGB_MEAN, RGB_STD)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """image (N, 3, H, W) RGB, uint8 or float in 0..255, of the input's aspect -> tokens (N, dim, rows, columns)."""
        image = image.float()
        if tuple(image.shape[-2:]) != self.config.input_size:
            mode = {"mode": "nearest"} if self.config.legacy_nearest_resize else {"mode": "bilinear", "antialias": True}
            image = F.interpolate(image, self.config.input_size, **mode)
        return self.encode((image / 255.0 - self.mean) / self.std)

    def encode(self, normalised: torch.Tensor) -> torch.Tensor:
        """The tokens (N, dim, rows, columns) of images of input_size that are already normalised."""
        patches = self.patch_embed(normalised) + self.pos_embed[:, 1:] + self.pos_embed[:, :1]
        tokens = torch.cat([self.task_tokens.expand(len(patches), -1, -1), patches], 1)
        tokens = self.last_norm(self.blocks(tokens))[:, self.config.task_tokens :].float()
        return tokens.transpose(1, 2).unflatten(2, self.grid)
