"""Diffusion DPO (paper equation 5) and KTO as functions of denoising errors of the policy and of the frozen reference.

How pairs are made is in adhmr.preference; the noise that winner and loser share is drawn by the training task.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F


class PairErrors(NamedTuple):
    """Denoising errors of P pairs under one model."""

    winner: torch.Tensor  # (P,)
    loser: torch.Tensor  # (P,)


def denoising_error(predicted: torch.Tensor, noise: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Mean over the last dimension of weight * (predicted - noise)^2, all (..., D) -> (...).

    Entries of weight 0 stay in the mean's denominator, as in the released code. For the paper's single norm,
    concatenate joints and twists (D = 133) before the call.
    """
    return (weight * (predicted.float() - noise.float()) ** 2).mean(-1)


def dpo_loss(
    policy: PairErrors, reference: PairErrors, beta: float = 100.0
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """-log sigmoid(-(beta / 2) D), mean over pairs, with D = [policy w - l] - [reference w - l].

    Call it once for joints and once for twists and add the losses (released code), or once for all 133 numbers (paper).
    The reference is detached. Logs, all detached means over pairs: `accuracy` (share with D < 0; ties count half),
    `margin` (-D: the policy's gain in telling winner from loser), `winner_change` and `loser_change` (policy error -
    reference error). A winner_change that grows says that the policy is pushed off the winners themselves: stop, or
    lower the learning rate.
    """
    winner_change = policy.winner - reference.winner.detach()  # (P,)
    loser_change = policy.loser - reference.loser.detach()
    difference = winner_change - loser_change
    loss = -F.logsigmoid(-0.5 * beta * difference).mean()
    with torch.no_grad():
        logs = {
            "accuracy": ((difference < 0).float() + 0.5 * (difference == 0).float()).mean(),
            "margin": -difference.mean(),
            "winner_change": winner_change.mean(),
            "loser_change": loser_change.mean(),
        }
    return loss, logs


def kto_gain(policy: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """-(policy error - reference error), both (P,): by how much the policy denoises a sample better. The reference is
    detached."""
    return reference.detach() - policy


def kto_loss(
    gain: torch.Tensor,
    desirable: torch.Tensor,
    kl: torch.Tensor,
    beta: float = 100.0,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Mean over samples of w (1 - sigmoid(+-beta (gain - kl))), + and desirable_weight where `desirable` (P,) bool.

    `gain` (P,) is kto_gain's. The scalar `kl` stands for the policy's distance from the reference: the mean gain of a
    batch, at least 0, without gradient. Joints and twists apart, as in `dpo_loss`. Logs, detached: `accuracy` (share of
    samples on their side of kl; ties count half), `kl`, and `winner_change` and `loser_change` as in `dpo_loss`, each
    averaged over the samples of that side (0 when there are none).
    """
    above = gain - kl.detach()
    sign = torch.where(desirable, 1.0, -1.0)
    weight = torch.where(desirable, desirable_weight, undesirable_weight)
    loss = (weight * torch.sigmoid(-sign * beta * above)).mean()  # 1 - sigmoid(x) = sigmoid(-x)
    with torch.no_grad():
        side = sign * above
        logs = {
            "accuracy": ((side > 0).float() + 0.5 * (side == 0).float()).mean(),
            "kl": kl.detach(),
            "winner_change": -masked_mean(gain, desirable),
            "loser_change": -masked_mean(gain, ~desirable),
        }
    return loss, logs


def masked_mean(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Mean of the values (P,) where `chosen` (P,) bool; 0 when none is."""
    return (values * chosen).sum() / chosen.sum().clamp(min=1)
