"""HMR-Scorer: scores M hypotheses of a pose against one image. Its losses are in adhmr.objectives.ranking.

The blocks are the denoiser's (attention.py) over the 29 joint tokens, without twists and without time.
"""

import torch
from torch import nn

from adhmr.body.skeleton import NUM_JOINTS
from adhmr.config.model import ScorerConfig
from adhmr.models.attention import DecoderBlock, initialise
from adhmr.models.denoiser import TokenInput
from adhmr.models.encoder import ImageEncoder, ImageFeatures, sample_local
from adhmr.models.graph import joint_adjacency, within_hops
from adhmr.models.positional import image_sinusoid, sinusoid

NUM_ROTATIONS = 24
SCORE_SLOPE = 5.0
#: Differences from the encoder's joints are mostly below a tenth of a crop or metre; beyond a half they say no more.
RELATIVE_SCALE, RELATIVE_LIMIT = 10.0, 5.0


def score_of(raw: torch.Tensor) -> torch.Tensor:
    """The score in (0, 1) of a raw output: sigmoid(5 raw)."""
    return torch.sigmoid(SCORE_SLOPE * raw)


class TokenAdapter(nn.Module):
    """Memory and local map from a vision transformer's tokens, as in the paper: 1x1 and transposed convolution."""

    def __init__(self, token_dim: int, memory_dim: int, local_dim: int):
        super().__init__()
        self.memory = nn.Conv2d(token_dim, memory_dim, 1)
        self.local = nn.Sequential(
            nn.ConvTranspose2d(token_dim, local_dim, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(local_dim),
            nn.ReLU(),
        )

    def forward(self, token_map: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """token_map (N, C, h, w) -> memory (N, h * w, memory_dim), local map (N, local_dim, 2h, 2w)."""
        return self.memory(token_map).flatten(2).transpose(1, 2), self.local(token_map)


class ScorerHead(nn.Module):
    """Scores hypotheses given an image's memory tokens and the local features at each hypothesis' joints."""

    def __init__(self, config: ScorerConfig, memory_grid: tuple[int, int]):
        super().__init__()
        adjacency = joint_adjacency()
        near = within_hops(adjacency, 2)
        if config.variant == "pose6d":
            near, features_in = near[:, :NUM_ROTATIONS], 6
        else:
            coordinates = 2 if config.variant == "2d" else 3
            features_in = coordinates * 2 + 1 if config.relative else coordinates
        self.pose_input = TokenInput(near, features_in, config)
        self.blocks = nn.ModuleList(
            DecoderBlock(config.dim, config.heads, config.ffn, config.dropout) for _ in config.reaches
        )
        first, second = config.hidden_dims
        self.score = nn.Sequential(
            nn.Linear(NUM_JOINTS * config.dim, first),
            nn.GroupNorm(32, first),
            nn.LeakyReLU(0.2),
            nn.Dropout(config.input_dropout),
            nn.Linear(first, second),
            nn.Linear(second, 1),
        )
        initialise(self, config.initialisation)
        allowed = torch.stack([within_hops(adjacency, reach) for reach in config.reaches])
        self.register_buffer("allowed", allowed, persistent=False)  # (blocks, 29, 29)
        self.register_buffer("token_position", sinusoid(torch.arange(NUM_JOINTS), config.dim), persistent=False)
        self.register_buffer("memory_position", image_sinusoid(*memory_grid, config.dim), persistent=False)

    def forward(self, memory: torch.Tensor, local: torch.Tensor, pose: torch.Tensor) -> torch.Tensor:
        """memory (N, T, dim), local (N, M, 29, local_dim), pose (N, M, P) flattened input numbers -> raw (N, M)."""
        images, hypotheses = pose.shape[:2]
        embedded = self.pose_input(pose.flatten(0, 1)).unflatten(0, (images, hypotheses))  # (N, M, 29, pose_dim)
        tokens = torch.cat([embedded, local.to(embedded.dtype)], -1).float()
        for block, allowed in zip(self.blocks, self.allowed, strict=True):
            tokens = block(tokens, memory, self.token_position, self.memory_position, allowed)
        return self.score(tokens.flatten(2).flatten(0, 1)).float().view(images, hypotheses)


class HMRScorer(nn.Module):
    """The image encoder of the scorer and its head. The caller decides whether `.encoder` is trained."""

    def __init__(self, config: ScorerConfig):
        super().__init__()
        self.config = config
        self.encoder = ImageEncoder(config.encoder)
        self.head = ScorerHead(config, config.encoder.memory_grid(config.crop_size))

    def forward(self, image: torch.Tensor, hypotheses: torch.Tensor) -> tuple[ImageFeatures, torch.Tensor]:
        """image (N, 3, S, S) and hypotheses as `score` takes them -> features, raw scores (N, M)."""
        features = self.encoder(image)
        return features, self.score(features, hypotheses, image.shape[-1])

    def score(self, features: ImageFeatures, hypotheses: torch.Tensor, crop_size: int) -> torch.Tensor:
        """Raw scores (N, M) of hypotheses; `score_of` maps them to (0, 1).

        features: of `.encoder`, N crops of crop_size pixels. hypotheses: (N, M, 29, 3) UVD in pixels of the crop and
        metres (variants "uvd" and "2d"), or (N, M, 24, 6) the first two columns of each rotation (variant "pose6d").
        """
        if self.config.variant == "pose6d":
            # Rotations alone do not say where in the crop the body is: look where the encoder sees the joints.
            local = features.local[:, None, :NUM_JOINTS].expand(-1, hypotheses.shape[1], -1, -1)
            return self.head(features.memory, local, hypotheses.flatten(2))
        points = 2.0 * hypotheses[..., :2].float() / crop_size - 1.0  # (N, M, 29, 2) in [-1, 1]
        local = sample_local(features.local_map, points, self.config.encoder.official_grid)
        pose = points if self.config.variant == "2d" else torch.cat([points, hypotheses[..., 2:].float()], -1)
        if self.config.relative:
            pose = torch.cat([pose, self._relative(pose, features)], -1)
        return self.head(features.memory, local, pose.flatten(2))

    def _relative(self, pose: torch.Tensor, features: ImageFeatures) -> torch.Tensor:
        """Scaled, bounded difference of (N, M, 29, 2 or 3) from the encoder's own joints, and its length in 2-D."""
        own = features.joints2d
        if pose.shape[-1] == 3:
            depth = torch.zeros_like(own[..., 0]) if features.depth is None else features.depth
            own = torch.cat([own, depth[..., None]], -1)
        difference = (pose - own[:, None].detach()) * RELATIVE_SCALE
        length = difference[..., :2].norm(dim=-1, keepdim=True)
        return torch.cat([difference, length], -1).clamp(-RELATIVE_LIMIT, RELATIVE_LIMIT)
