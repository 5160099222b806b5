"""Preference objectives as functions of denoising errors of the policy and of the frozen reference: DPO (paper equation
5), IPO, KTO, Plackett-Luce, advantage-weighted, and the winners' own error.

All take groups of hypotheses. How groups are made is in adhmr.preference and training/tasks/pairs.py; timestep weights
are in adhmr.diffusion.weighting."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Logs = dict[str, Tensor]


def denoising_error(predicted: Tensor, noise: Tensor, weight: Tensor) -> Tensor:
    """Mean over the last dimension of weight * (predicted - noise)^2, all (..., D) -> (...).

    Entries of weight 0 stay in the mean's denominator, as in the released code. For the paper's single norm,
    concatenate joints and twists (D = 133) before the call.
    """
    return (weight * (predicted.float() - noise.float()) ** 2).mean(-1)


class GroupErrors(NamedTuple):
    """Denoising errors of G groups of M hypotheses, best first, under both models.

    A group is a pair (M = 2: the winner, then the loser), one side of a pair (M = 1), or M hypotheses of an image.
    """

    policy: Tensor  # (G, M)
    reference: Tensor | None  # (G, M); None: not asked for, which `sft` alone allows
    value: Tensor  # (G, M), the larger the better; of a group of one the sign alone counts: 1 a winner, -1 a loser

    @property
    def gain(self) -> Tensor:
        """(G, M): by how much the policy denoises a hypothesis better than the reference, which is detached. The
        implicit reward is beta / 2 times this."""
        return self.reference.detach() - self.policy

    @property
    def is_winner(self) -> Tensor:
        """(G, M) bool: the first of each group; of groups of one those with a positive value."""
        if self.value.shape[-1] == 1:
            return self.value > 0
        return (torch.arange(self.value.shape[-1], device=self.value.device) == 0).expand_as(self.value)


def dpo(groups: GroupErrors, beta: float) -> tuple[Tensor, Logs]:
    """Of pairs: -log sigmoid(beta / 2 (g_winner - g_loser)) with the gains g, mean over pairs.

    Call it once for joints and once for twists and add the losses (released code), or once for all 133 numbers
    (paper). A policy that equals the reference pays log 2.
    """
    return -F.logsigmoid(0.5 * beta * _pair_margin(groups)).mean(), comparison_logs(groups)


def ipo(groups: GroupErrors, beta: float) -> tuple[Tensor, Logs]:
    """Of pairs: (beta / 2 (g_winner - g_loser) - 1 / 2)^2, mean over pairs.

    This is beta^2 times IPO's (h - 1 / (2 beta))^2 with h = (g_winner - g_loser) / 2, so that loss and gradient keep
    the size that they have in `dpo`. The margin is pulled to 1 / beta and no further. A policy that equals the
    reference pays 1 / 4.
    """
    return (0.5 * beta * _pair_margin(groups) - 0.5).square().mean(), comparison_logs(groups)


def plackett_luce(groups: GroupErrors, beta: float) -> tuple[Tensor, Logs]:
    """Of groups: minus the log-probability of their order under Plackett-Luce with the rewards r = beta / 2 g.

    sum over i of log(exp r_i + sum of exp r_j over the j worse than i) - r_i, divided by M - 1, mean over groups.
    Hypotheses of one value do not compete with each other, so their order in the group says nothing; pairs give
    `dpo`. A policy that equals the reference pays log(M!) / (M - 1) where no values are equal: log 2 for M = 2.
    """
    reward, size = 0.5 * beta * groups.gain, groups.value.shape[-1]
    worse = groups.value[:, :, None] > groups.value[:, None, :]  # (G, M, M): of i, is j worse?
    rivals = reward[:, None, :].masked_fill(~worse, torch.finfo(reward.dtype).min)  # not -inf: some have no rival
    terms = F.softplus(rivals.logsumexp(-1) - reward)  # (G, M), exact where a reward leaves its rivals far behind
    return (terms.sum(-1) / (size - 1)).mean(), comparison_logs(groups)


def advantage(groups: GroupErrors, beta: float) -> tuple[Tensor, Logs]:
    """Of groups: -log sigmoid(beta / 2 sum of a g), mean over groups, with the advantages a of `group_advantages`: the
    better half of a group against the worse, each hypothesis by how much better or worse it is (the form of direct
    group preference optimisation). Pairs give `dpo`. A policy that equals the reference pays log 2."""
    margin = (group_advantages(groups.value) * groups.gain).sum(-1)
    return -F.logsigmoid(0.5 * beta * margin).mean(), comparison_logs(groups)


def group_advantages(value: Tensor) -> Tensor:
    """(G, M): (value - mean of the group) / spread, then the positive ones scaled to sum 1, the negative ones to -1 (so
    the spread cancels); all 0 where the values of a group are equal."""
    centred = value.double() - value.double().mean(-1, keepdim=True)  # double: nearly equal values keep their sides
    above, below = centred.clamp(min=0), centred.clamp(max=0)
    scaled = above / above.sum(-1, keepdim=True) - below / below.sum(-1, keepdim=True)
    tied = value.amax(-1, keepdim=True) == value.amin(-1, keepdim=True)
    return torch.where(tied, 0.0, scaled).to(value.dtype)


def kto(
    groups: GroupErrors,
    beta: float,
    baseline: Tensor,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> tuple[Tensor, Logs]:
    """Of groups of one: mean of w (1 - sigmoid(+-beta (g - baseline))), + and desirable_weight for winners.

    `baseline` is what a gain is measured from: the mean gain of a batch, at least 0, without gradient. A policy that
    equals the reference pays half the mean weight. Logs as in `comparison_logs`, but `accuracy` is the share of
    hypotheses on their side of the baseline, and the changes are means over the winners and losers shown, 0 when there
    are none.
    """
    above, desirable = groups.gain - baseline.detach(), groups.is_winner
    side = torch.where(desirable, above, -above)
    weight = torch.where(desirable, desirable_weight, undesirable_weight)
    loss = (weight * torch.sigmoid(-beta * side)).mean()  # 1 - sigmoid(x) = sigmoid(-x)
    changes = -masked_mean(groups.gain, desirable), -masked_mean(groups.gain, ~desirable)
    return loss, {"baseline": baseline.detach()} | _logs(groups, _share(side), *changes)


def sft(groups: GroupErrors) -> tuple[Tensor, Logs]:
    """The winners' own error: supervised fine-tuning, without a reference. Its only log is `policy_error`."""
    return winner_error(groups), {"policy_error": groups.policy.detach().mean()}


def winner_error(groups: GroupErrors) -> Tensor:
    """Mean policy error of the winners, with gradient; 0 when none is shown."""
    return masked_mean(groups.policy, groups.is_winner)


def comparison_logs(groups: GroupErrors) -> Logs:
    """What the objectives that compare hypotheses of an image log, detached, means over the groups.

    `accuracy`: share of two hypotheses whose gains are in the order of the group; equal gains count half, as do equal
    values of more than two. `winner_change`, `loser_change`: policy error - reference error of the better and of the
    worse half of a group. `margin`: loser_change - winner_change, the policy's gain in telling them apart.
    """
    gain, size = groups.gain.detach(), groups.value.shape[-1]
    better, worse = torch.triu_indices(size, size, 1, device=gain.device)
    difference = gain[:, better] - gain[:, worse]  # (G, M (M - 1) / 2)
    if size > 2:  # what is called the winner of a pair is that, whatever the values
        difference = difference.where(groups.value[:, better] > groups.value[:, worse], 0.0)
    half = size // 2
    return _logs(groups, _share(difference), -gain[:, :half].mean(), -gain[:, size - half :].mean())


def masked_mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the values where `chosen` (bool, of their shape); 0 when none is."""
    return (values * chosen).sum() / chosen.sum().clamp(min=1)


def _pair_margin(groups: GroupErrors) -> Tensor:
    """(G,): by how much the winner's gain is the larger."""
    winner, loser = groups.gain.unbind(-1)
    return winner - loser


def _share(difference: Tensor) -> Tensor:
    """Share of positive numbers; zeros count half."""
    return ((difference > 0).float() + 0.5 * (difference == 0).float()).mean()


@torch.no_grad()
def _logs(groups: GroupErrors, accuracy: Tensor, winner_change: Tensor, loser_change: Tensor) -> Logs:
    """With `kl`, the mean of policy error - reference error over all that is shown. Where that was drawn from the
    reference, it is an estimate of KL(reference || policy) up to a factor."""
    return {
        "accuracy": accuracy,
        "margin": loser_change - winner_change,
        "winner_change": winner_change,
        "loser_change": loser_change,
        "policy_error": groups.policy.mean(),
        "reference_error": groups.reference.mean(),
        "kl": -groups.gain.mean(),
    }
