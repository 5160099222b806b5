"""HypoNet's denoiser: predicts the noise of 29 joints (UVD) and 23 twists, given image features.

The tokens' transformer is in attention.py, the noise schedule in adhmr.diffusion.schedule.
"""

import torch
import torch.nn.functional as F
from torch import nn

from adhmr.body.skeleton import NUM_JOINTS, NUM_TWISTS
from adhmr.config.model import DenoiserConfig, TransformerConfig
from adhmr.diffusion.schedule import NUM_TIMESTEPS, LinearSchedule
from adhmr.models.attention import DecoderBlock, initialise
from adhmr.models.encoder import ImageFeatures
from adhmr.models.graph import NUM_TOKENS, token_adjacency, within_hops
from adhmr.models.masked_linear import MaskedLinear
from adhmr.models.positional import image_sinusoid, sinusoid

TIME_DIM = 128
INPUT_GROUPS = 32
X0_HALF_RANGE = 50.0  # x0 of a joint at the crop's edge, one metre from the root, or of a twist of cosine 1
TYPICAL_COSINE = 0.9  # most twists are small; where the learnt centre of the twists starts
ANCHORED_PARTS = 3  # a joint is seen relative to the anchor, in the crop, and beside the anchor itself
ABSOLUTE_SIGMA = 20.0  # spread of x0 about the crop's middle, for the inputs that are not centred on the anchor


class TokenInput(nn.Module):
    """Embeds flattened per-token numbers: masked linear (2 hops), GroupNorm, LeakyReLU, dropout."""

    def __init__(self, token_mask: torch.Tensor, features_in: int, config: TransformerConfig):
        super().__init__()
        self.tokens = token_mask.shape[0]
        self.linear = MaskedLinear(token_mask, features_in, config.pose_dim)
        width = self.linear.out_features
        self.norm = nn.GroupNorm(INPUT_GROUPS, width) if config.input_norm else nn.Identity()
        self.dropout = nn.Dropout(config.input_dropout)

    def forward(self, flat: torch.Tensor) -> torch.Tensor:
        """(B, tokens_in * features_in) -> (B, tokens, pose_dim)."""
        embedded = F.leaky_relu(self.norm(self.linear(flat)), 0.2)
        return self.dropout(embedded).unflatten(-1, (self.tokens, -1))


class Denoiser(nn.Module):
    """Noise prediction for M hypotheses an image, which share the image's memory."""

    def __init__(self, config: DenoiserConfig, memory_grid: tuple[int, int]):
        super().__init__()
        self.config = config
        adjacency = token_adjacency()
        near = within_hops(adjacency, 2)
        near_joints, near_twists = near[:NUM_JOINTS, :NUM_JOINTS], near[NUM_JOINTS:, NUM_JOINTS:]
        self.joint_input = TokenInput(near_joints, 3 * ANCHORED_PARTS if config.anchor else 3, config)
        self.twist_input = TokenInput(near_twists, 2, config)
        self.time = nn.ModuleList([nn.Linear(TIME_DIM, config.dim), nn.Linear(config.dim, config.dim)])
        self.blocks = nn.ModuleList(
            DecoderBlock(config.dim, config.heads, config.ffn, config.dropout) for _ in config.reaches
        )
        self.joint_output = MaskedLinear(near_joints, config.dim, 3)
        self.twist_output = MaskedLinear(near_twists, config.dim, 2)
        initialise(self, config.initialisation)
        allowed = torch.stack([within_hops(adjacency, reach) for reach in config.reaches])
        self.register_buffer("allowed", allowed, persistent=False)  # (blocks, 52, 52)
        self.register_buffer("token_position", sinusoid(torch.arange(NUM_TOKENS), config.dim), persistent=False)
        self.register_buffer("memory_position", image_sinusoid(*memory_grid, config.dim), persistent=False)
        self.register_buffer("time_position", sinusoid(torch.arange(NUM_TIMESTEPS), TIME_DIM), persistent=False)
        if config.preconditioning == "edm":
            self.output_norm = nn.LayerNorm(config.dim)
            for output in (self.joint_output, self.twist_output):
                nn.init.zeros_(output.weight)  # starts at the prediction that the preconditioning makes of the centre
            self.joint_centre = nn.Parameter(torch.zeros(NUM_JOINTS * 3))  # units of the spread
            typical_twist = torch.tensor([TYPICAL_COSINE * X0_HALF_RANGE / config.sigma_twist, 0.0])
            self.twist_centre = nn.Parameter(typical_twist.repeat(NUM_TWISTS))
            abar = LinearSchedule().alphas_cumprod
            self.register_buffer("signal", abar.sqrt(), persistent=False)  # (T,)
            self.register_buffer("noise_level", ((1 - abar) / abar).sqrt(), persistent=False)  # (T,)

    def forward(
        self, x_joint: torch.Tensor, x_twist: torch.Tensor, t: torch.Tensor, features: ImageFeatures
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x_joint (N, M, 87), x_twist (N, M, 46), t (N, M) int64, features of N images -> noise, same shapes."""
        if self.config.preconditioning == "edm":
            return self._preconditioned(x_joint, x_twist, t, features)
        out_joint, out_twist = self._network(x_joint, x_twist, t, features)
        return x_joint + out_joint.float(), x_twist + out_twist.float()

    def loss_weights(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights (N, M, 1) of the squared noise errors of joints and twists with which all t (N, M) count alike for
        the network: the inverse square of its output's scale s / sqrt(sigma^2 + s^2). Needs preconditioning "edm"."""
        sigma = self.noise_level[t][..., None]
        return (sigma / self.config.sigma_joint) ** 2 + 1.0, (sigma / self.config.sigma_twist) ** 2 + 1.0

    def _preconditioned(
        self, x_joint: torch.Tensor, x_twist: torch.Tensor, t: torch.Tensor, features: ImageFeatures
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Karras et al. (2022), table 1, about a centre c: with y = x_t / sqrt(abar) - c and noise level sigma,

        x0 = c + y s^2 / (sigma^2 + s^2) + F sigma s / sqrt(sigma^2 + s^2), hence, without dividing by a small sigma,
        eps = (y - (x0 - c)) / sigma = y sigma / (sigma^2 + s^2) - F s / sqrt(sigma^2 + s^2).

        At zero noise and large sigma, y = -c, so x0 is about c + s F: the conditional mean.
        """
        config = self.config
        with torch.autocast(x_joint.device.type, enabled=False):  # the scales span five orders of magnitude
            signal, sigma = self.signal[t][..., None], self.noise_level[t][..., None]  # (N, M, 1)
            joint, twist = x_joint.float() / signal, x_twist.float() / signal
            anchor = self._anchor(features)[:, None] if config.anchor else torch.zeros_like(joint[:, :1])  # (N, 1, 87)
            y_joint = joint - (anchor + config.sigma_joint * self.joint_centre)
            y_twist = twist - config.sigma_twist * self.twist_centre
            total_joint = (sigma**2 + config.sigma_joint**2).sqrt()
            total_twist = (sigma**2 + config.sigma_twist**2).sqrt()
            scaled = y_joint / total_joint
            if config.anchor:
                absolute = joint / (sigma**2 + ABSOLUTE_SIGMA**2).sqrt()
                parts = [scaled, absolute, (anchor / ABSOLUTE_SIGMA).expand_as(joint)]
                per_joint = [part.unflatten(-1, (NUM_JOINTS, 3)) for part in parts]
                scaled = torch.cat(per_joint, -1).flatten(2)  # (N, M, 29 * 9)
        out_joint, out_twist = self._network(scaled, y_twist / total_twist, t, features)
        eps_joint = y_joint * sigma / total_joint**2 - out_joint.float() * config.sigma_joint / total_joint
        eps_twist = y_twist * sigma / total_twist**2 - out_twist.float() * config.sigma_twist / total_twist
        return eps_joint, eps_twist

    def _anchor(self, features: ImageFeatures) -> torch.Tensor:
        """The encoder's joints as x0, (N, 87): u*, v* = 50 times [-1, 1], d* = 50 times metres. Without gradient: the
        estimate is trained by its own losses, and would otherwise chase the denoiser's residual."""
        depth = torch.zeros_like(features.joints2d[..., 0]) if features.depth is None else features.depth
        return (torch.cat([features.joints2d, depth[..., None]], -1).detach() * X0_HALF_RANGE).flatten(1)

    def _network(
        self, joint: torch.Tensor, twist: torch.Tensor, t: torch.Tensor, features: ImageFeatures
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The transformer: (N, M, .) scaled inputs -> (N, M, 87), (N, M, 46) raw outputs."""
        images, hypotheses = t.shape
        pose = torch.cat([self.joint_input(joint.flatten(0, 1)), self.twist_input(twist.flatten(0, 1))], 1)
        local = features.local[:, None].expand(-1, hypotheses, -1, -1)
        tokens = torch.cat([pose.unflatten(0, (images, hypotheses)), local.to(pose.dtype)], -1)  # (N, M, 52, dim)
        time = self.time_position[t]  # (N, M, TIME_DIM)
        for layer in self.time:
            time = F.silu(layer(time))
        tokens = tokens.float() + time[:, :, None]
        for block, allowed in zip(self.blocks, self.allowed, strict=True):
            tokens = block(tokens, features.memory, self.token_position, self.memory_position, allowed)
        if self.config.preconditioning == "edm":
            tokens = self.output_norm(tokens)
        joints, twists = tokens[:, :, :NUM_JOINTS].flatten(2), tokens[:, :, NUM_JOINTS:].flatten(2)
        return self.joint_output(joints), self.twist_output(twists)
