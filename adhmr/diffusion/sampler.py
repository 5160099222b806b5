"""DDIM sampling (Song et al. 2021) of M hypotheses an image. Decoding x0 into poses is in adhmr.body.codec."""

import math
from collections.abc import Callable
from typing import Any

import torch

from adhmr.diffusion.schedule import LinearSchedule

#: (x_joint (N, M, 87), x_twist (N, M, 46), t (N, M), features) -> predicted noise of both, same shapes.
DenoiserFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Any], tuple[torch.Tensor, torch.Tensor]]

#: Step number -> standard normal noise (N, M, 133) that this step adds, keyed by the caller.
FreshNoise = Callable[[int], torch.Tensor]

JOINT_DIM, TWIST_DIM = 87, 46


def ddim_timesteps(num_timesteps: int, steps: int) -> list[int]:
    """Descending timesteps of range(0, T, T // steps): 3 gives the paper's four calls at 999, 666, 333, 0."""
    return list(range(0, num_timesteps, num_timesteps // steps))[::-1]


@torch.no_grad()
def ddim_sample(
    denoiser: DenoiserFunction,
    features: Any,
    num_hypotheses: int,
    noise: torch.Tensor,
    steps: int = 3,
    zero_first: bool = True,
    eta: float = 0.0,
    fresh_noise: FreshNoise | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample x0 of `num_hypotheses` hypotheses an image.

    noise (N, M, 133) standard normal, the caller's (so that it can be keyed by the image); with `zero_first` hypothesis
    0 starts from zero noise instead: the model's mode. With eta above 0 each step but the last replaces part of the
    predicted noise by `fresh_noise`, at eta = 1 as much as ancestral sampling does; hypothesis 0 gets none of it with
    `zero_first`. Returns x_joint (N, M, 87), x_twist (N, M, 46), units of x0.
    """
    if noise.shape[1:] != (num_hypotheses, JOINT_DIM + TWIST_DIM):
        raise ValueError(f"noise must be (N, {num_hypotheses}, {JOINT_DIM + TWIST_DIM}), found {tuple(noise.shape)}")
    if eta and fresh_noise is None:
        raise ValueError(f"eta = {eta} needs fresh_noise")
    schedule = LinearSchedule()
    x = noise.float()
    if zero_first:
        x = torch.cat([torch.zeros_like(x[:, :1]), x[:, 1:]], 1)
    timesteps = ddim_timesteps(schedule.num_timesteps, steps)
    for step, now in enumerate(timesteps):
        t = torch.full(x.shape[:2], now, dtype=torch.int64, device=x.device)  # (N, M)
        predicted = denoiser(x[..., :JOINT_DIM], x[..., JOINT_DIM:], t, features)
        eps = torch.cat([part.float() for part in predicted], -1)  # (N, M, 133)
        signal, spread = schedule.coefficients_at(now)
        x = (x - spread * eps) / signal  # x0 as predicted
        if step + 1 < len(timesteps):
            signal_now, spread_now = signal, spread
            signal, spread = schedule.coefficients_at(timesteps[step + 1])
            if eta:
                sigma = eta * spread / spread_now * math.sqrt(1 - (signal_now / signal) ** 2)
                fresh = fresh_noise(step).to(x)
                if zero_first:
                    fresh = torch.cat([torch.zeros_like(fresh[:, :1]), fresh[:, 1:]], 1)
                x = signal * x + math.sqrt(spread**2 - sigma**2) * eps + sigma * fresh
            else:
                x = signal * x + spread * eps
    return x[..., :JOINT_DIM], x[..., JOINT_DIM:]
