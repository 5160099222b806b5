"""Parts of the base model's loss: betas, 2-D joints, noise of joints and twists; auxiliary heatmaps and depth.

Their weights are adhmr.config.losses.DenoisingWeights. Preference losses are in preference.py, scorers' in ranking.py.
"""

import torch
import torch.nn.functional as F

from adhmr.models.encoder import ImageFeatures


def _weighted_square(predicted: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Sum over all dimensions but the first, mean over the first, of weight * (predicted - target)^2."""
    return (weight * (predicted.float() - target.float()) ** 2).flatten(1).sum(1).mean()


def betas_loss(predicted: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """predicted and target (N, 10), weight (N,) or None."""
    weight = torch.ones_like(target[:, 0]) if weight is None else weight
    return _weighted_square(predicted, target, weight[:, None])


def joints2d_loss(predicted: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """predicted and target (N, 29, 2) in [-1, 1], weight (N, 29, 2): sum over joints of the squared distance."""
    return _weighted_square(predicted, target, weight)


def noise_loss(
    predicted: torch.Tensor, noise: torch.Tensor, weight: torch.Tensor, level_weight: torch.Tensor | None = None
) -> torch.Tensor:
    """predicted and noise (N, M, D), weight (N, D): sum over D, mean over images and hypotheses.

    level_weight (N, M, 1) rebalances noise levels (Denoiser.loss_weights); None is the paper's unweighted loss.
    """
    square = weight[:, None] * (predicted.float() - noise.float()) ** 2
    if level_weight is not None:
        square = square * level_weight
    return square.sum(-1).mean()


def heatmap_loss(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, spread: float = 1.2) -> torch.Tensor:
    """Cross-entropy of the heatmaps' softmax with a Gaussian of `spread` cells about the true joint, mean over joints.

    logits (N, 29, h, w), target (N, 29, 2) in [-1, 1], weight (N, 29). Joints outside the crop are left out.
    """
    height, width = logits.shape[-2:]

    def bump(centre: torch.Tensor, length: int) -> torch.Tensor:
        cells = (torch.arange(length, device=centre.device) + 0.5) * (2.0 / length) - 1.0
        return torch.exp(-0.5 * ((cells - centre[..., None]) * (length / 2.0 / spread)) ** 2)  # (N, 29, length)

    gaussian = (bump(target[..., 1], height)[..., None] * bump(target[..., 0], width)[..., None, :]).flatten(2)
    gaussian = gaussian / gaussian.sum(-1, keepdim=True).clamp_min(1e-6)
    entropy = -(gaussian * logits.float().flatten(2).log_softmax(-1)).sum(-1)  # (N, 29)
    weight = weight * (target.abs() <= 1.0).all(-1)
    return (weight * entropy).sum() / weight.sum().clamp_min(1.0)


def depth_loss(predicted: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Mean absolute error, metres, of the root-relative depth; all (N, 29)."""
    return (weight * F.l1_loss(predicted.float(), target.float(), reduction="none")).sum() / weight.sum().clamp_min(1.0)


def encoder_losses(
    features: ImageFeatures, batch: dict[str, torch.Tensor], joints2d: bool, heatmap: bool, depth: bool
) -> dict[str, torch.Tensor]:
    """What an encoder's own estimates of a batch's joints (image, uvd, uvd_weight) cost: of the three parts those that
    are asked for and that this encoder can have, unweighted."""
    height, width = batch["image"].shape[-2:]
    uvd, seen = batch["uvd"], batch["uvd_weight"]  # (N, 29, 3) pixels, pixels, metres
    target = 2.0 * uvd[..., :2] / uvd.new_tensor([width, height]) - 1.0  # (N, 29, 2) in [-1, 1]
    parts = {}
    if joints2d:
        parts["joints2d"] = joints2d_loss(features.joints2d, target, seen[..., :2])
    if heatmap:
        parts["heatmap"] = heatmap_loss(features.heatmap_logits, target, seen[..., 0])
    if depth and features.depth is not None:
        parts["depth"] = depth_loss(features.depth, uvd[..., 2], seen[..., 2])
    return parts
