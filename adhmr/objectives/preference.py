"""Diffusion DPO as a function of denoising errors of the policy and of the frozen reference (paper equation 5).

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
