"""Reward models: HMR-Scorer, its ablations, and ScoreHypo's ScoreNet score M hypotheses of a pose against one image.

The blocks are the denoiser's (attention.py) over the joint tokens, without time; only ScoreNet has twist tokens. The
losses are in adhmr.objectives.ranking, the presets in configs/models/.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from adhmr.body.hypotheses import Hypotheses
from adhmr.body.skeleton import NUM_JOINTS
from adhmr.config.model import ScorerConfig, ViTConfig
from adhmr.errors import AdhmrError
from adhmr.models.attention import DecoderBlock, initialise
from adhmr.models.denoiser import TokenInput
from adhmr.models.encoder import ImageEncoder, ImageFeatures, sample_local
from adhmr.models.graph import joint_adjacency, token_adjacency, within_hops
from adhmr.models.positional import image_sinusoid, sinusoid
from adhmr.models.vit import ViTEncoder

NUM_POSE6D = 22  # rotations of the root and of SMPL-X's body joints; SMPL's hands, 22 and 23, have no counterpart there
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
    """Scores hypotheses given an image's memory tokens and the local features at each hypothesis' points."""

    def __init__(self, config: ScorerConfig, memory_grid: tuple[int, int]):
        super().__init__()
        with_twists = config.variant == "uvd_twist"
        adjacency = token_adjacency() if with_twists else joint_adjacency()
        tokens = len(adjacency)
        near = within_hops(adjacency, 2)
        near_joints = near[:NUM_JOINTS, :NUM_JOINTS]
        if config.variant == "pose6d":
            near_joints, features_in = near_joints[:, :NUM_POSE6D], 6
        else:
            coordinates = 2 if config.variant == "2d" else 3
            features_in = coordinates * 2 + 1 if config.relative else coordinates
            if config.variant == "uvd_pose6d":
                features_in += 6
        self.pose_input = TokenInput(near_joints, features_in, config)
        self.twist_input = TokenInput(near[NUM_JOINTS:, NUM_JOINTS:], 2, config) if with_twists else None
        self.blocks = nn.ModuleList(
            DecoderBlock(config.dim, config.heads, config.ffn, config.dropout) for _ in config.reaches
        )
        first, *_ = widths = (*config.hidden_dims, 1)
        self.score = nn.Sequential(
            nn.Linear(tokens * config.dim, first),
            nn.GroupNorm(32, first),
            nn.LeakyReLU(0.2),
            nn.Dropout(config.input_dropout),
            *(nn.Linear(width, narrower) for width, narrower in pairwise(widths)),
        )
        initialise(self, config.initialisation)
        allowed = torch.stack([within_hops(adjacency, reach) for reach in config.reaches])
        self.register_buffer("allowed", allowed, persistent=False)  # (blocks, tokens, tokens)
        self.register_buffer("token_position", sinusoid(torch.arange(tokens), config.dim), persistent=False)
        self.register_buffer("memory_position", image_sinusoid(*memory_grid, config.dim), persistent=False)

    def forward(
        self, memory: torch.Tensor, local: torch.Tensor, pose: torch.Tensor, twists: torch.Tensor | None = None
    ) -> torch.Tensor:
        """memory (N, T, dim), local (N, M, tokens, local_dim), pose (N, M, P) and, for ScoreNet, twists (N, M, 46): the
        flattened input numbers -> raw (N, M)."""
        images, hypotheses = pose.shape[:2]
        embedded = self.pose_input(pose.flatten(0, 1))  # (N * M, 29, pose_dim)
        if self.twist_input is not None:
            embedded = torch.cat([embedded, self.twist_input(twists.flatten(0, 1))], 1)
        embedded = embedded.unflatten(0, (images, hypotheses))
        tokens = torch.cat([embedded, local.to(embedded.dtype)], -1).float()
        for block, allowed in zip(self.blocks, self.allowed, strict=True):
            tokens = block(tokens, memory, self.token_position, self.memory_position, allowed)
        return self.score(tokens.flatten(2).flatten(0, 1)).float().view(images, hypotheses)


class HMRScorer(nn.Module):
    """A reward model: `.encoder`, with a vision transformer also `.adapter`, and `.head`.

    The caller decides whether `.encoder` is trained; in the paper it is not.
    """

    def __init__(self, config: ScorerConfig):
        super().__init__()
        self.config = config
        if isinstance(config.encoder, ViTConfig):
            self.encoder = ViTEncoder(config.encoder)
            self.adapter = TokenAdapter(config.encoder.dim, config.dim, config.local_dim)
        else:
            self.encoder = ImageEncoder(config.encoder)
            self.adapter = None
        self.head = ScorerHead(config, config.encoder.memory_grid(*config.crop_shape))

    def forward(self, image: torch.Tensor, hypotheses: Hypotheses) -> tuple[ImageFeatures, torch.Tensor]:
        """image (N, 3, H, W) RGB, uint8 or float in 0..255, and hypotheses in its pixels -> features, raw (N, M)."""
        image, hypotheses = self.framed(image, hypotheses)
        features = self.features(image)
        return features, self.score(features, hypotheses, (image.shape[-2], image.shape[-1]))

    def framed(self, image: torch.Tensor, hypotheses: Hypotheses) -> tuple[torch.Tensor, Hypotheses]:
        """Crops of the shape that the scorer is for. A square crop given to a scorer of tall crops is put between black
        bars of the scorer's shape: so are sampled hypotheses scored, whose crops are the base model's."""
        height, width = image.shape[-2:]
        own_height, own_width = self.config.crop_shape
        if height == width and own_height != own_width:
            return letterbox(image, hypotheses, self.config.crop_shape)
        return image, hypotheses

    def features(self, image: torch.Tensor) -> ImageFeatures:
        """What the encoder sees of crops of the scorer's own shape (N, 3, H, W)."""
        return self.adapted(self.encoder(image))

    def adapted(self, seen: ImageFeatures | torch.Tensor) -> ImageFeatures:
        """Features for the head, of what the encoder gave."""
        if self.adapter is None:
            return seen
        memory, local_map = self.adapter(seen)
        return ImageFeatures(memory.float(), local_map.float(), *(None,) * 5)

    def score(self, features: ImageFeatures, hypotheses: Hypotheses, crop_shape: tuple[int, int]) -> torch.Tensor:
        """Raw scores (N, M) of hypotheses in the pixels of crops of (height, width); `score_of` maps them to (0, 1).

        Raises AdhmrError when the hypotheses lack what this variant looks at (twists, rotations).
        """
        if self.config.variant == "pose6d":
            return self._score_rotations(features, _required(hypotheses.rotations, "rotations", self.config.variant))
        height, width = crop_shape
        u, v, depth = hypotheses.uvd.float().unbind(-1)
        points = torch.stack([2.0 * u / width - 1.0, 2.0 * v / height - 1.0], -1)  # (N, M, 29, 2) in [-1, 1]
        pose = points if self.config.variant == "2d" else torch.cat([points, depth[..., None]], -1)
        if self.config.relative:
            pose = torch.cat([pose, self._relative(pose, features)], -1)
        if self.config.variant == "uvd_pose6d":
            rotations = _required(hypotheses.rotations, "rotations", self.config.variant)
            leaves = NUM_JOINTS - rotations.shape[2]  # joints at the ends of limbs have none
            pose = torch.cat([pose, F.pad(pose6d(rotations), (0, 0, 0, leaves))], -1)
        twists, looked_at = None, points
        if self.config.variant == "uvd_twist":
            twists = _required(hypotheses.twists, "twists", self.config.variant).flatten(2).float()
            looked_at = self.encoder.token_points(points)  # (N, M, 52, 2)
        local = sample_local(features.local_map, looked_at, self.config.encoder.official_grid)
        return self.head(features.memory, local, pose.flatten(2), twists)

    def _score_rotations(self, features: ImageFeatures, rotations: torch.Tensor) -> torch.Tensor:
        """HMR-Scorer-P. Rotations alone do not say where in the crop the body is: every token sees where the encoder
        finds its joint, or else the mean of the whole map."""
        pose = pose6d(rotations[:, :, :NUM_POSE6D]).flatten(2)  # (N, M, 132)
        if features.local is None:
            local = features.local_map.mean((-1, -2))[:, None].expand(-1, NUM_JOINTS, -1)
        else:
            local = features.local[:, :NUM_JOINTS]  # (N, 29, local_dim)
        return self.head(features.memory, local[:, None].expand(-1, rotations.shape[1], -1, -1), pose)

    def _relative(self, pose: torch.Tensor, features: ImageFeatures) -> torch.Tensor:
        """Scaled, bounded difference of (N, M, 29, 2 or 3) from the encoder's own joints, and its length in 2-D."""
        own = features.joints2d
        if pose.shape[-1] == 3:
            depth = torch.zeros_like(own[..., 0]) if features.depth is None else features.depth
            own = torch.cat([own, depth[..., None]], -1)
        difference = (pose - own[:, None].detach()) * RELATIVE_SCALE
        length = difference[..., :2].norm(dim=-1, keepdim=True)
        return torch.cat([difference, length], -1).clamp(-RELATIVE_LIMIT, RELATIVE_LIMIT)


def pose6d(rotations: torch.Tensor) -> torch.Tensor:
    """(..., 6): the first two columns of rotations (..., 3, 3) (Zhou et al. 2019)."""
    return rotations[..., :2].transpose(-1, -2).flatten(-2).float()


def letterbox(image: torch.Tensor, hypotheses: Hypotheses, shape: tuple[int, int]) -> tuple[torch.Tensor, Hypotheses]:
    """Square crops (N, 3, S, S) scaled to the width of `shape` (height, width), with black above and below; the
    hypotheses' pixels move with them."""
    height, width = shape
    bar = (height - width) // 2
    scaled = F.interpolate(image.float(), (width, width), mode="bilinear", antialias=True)
    uv = hypotheses.uvd[..., :2] * (width / image.shape[-1])
    uvd = torch.stack([uv[..., 0], uv[..., 1] + bar, hypotheses.uvd[..., 2]], -1)
    return F.pad(scaled, (0, 0, bar, height - width - bar)), hypotheses._replace(uvd=uvd)


def _required(part: torch.Tensor | None, name: str, variant: str) -> torch.Tensor:
    if part is None:
        raise AdhmrError(f"a scorer of variant '{variant}' looks at {name}, which these hypotheses do not have")
    return part
