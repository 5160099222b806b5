"""The noise schedule: linear betas, and the forward process q(x_t | x_0). Sampling is in sampler.py."""

import torch
from torch import nn

NUM_TIMESTEPS = 1000
BETA_FIRST, BETA_LAST = 1e-4, 0.02


class LinearSchedule(nn.Module):
    """Linear betas from 1e-4 to 0.02 over T = 1000 steps.

    x0 is scaled to about +-50 while the noise has unit spread, so the signal at t = 999 is not zero: 50 * 0.00635.
    """

    alphas_cumprod: torch.Tensor

    def __init__(self, num_timesteps: int = NUM_TIMESTEPS):
        super().__init__()
        self.num_timesteps = num_timesteps
        betas = torch.linspace(BETA_FIRST, BETA_LAST, num_timesteps, dtype=torch.float64)
        self.register_buffer("alphas_cumprod", (1.0 - betas).cumprod(0).float(), persistent=False)  # (T,)

    def coefficients(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """t (...) int64 on the schedule's device -> signal sqrt(abar_t) and noise sqrt(1 - abar_t), each (..., 1)."""
        abar = self.alphas_cumprod[t][..., None]
        return abar.sqrt(), (1.0 - abar).sqrt()

    def coefficients_at(self, t: int) -> tuple[float, float]:
        """The same for one timestep of all samples, as plain numbers: of a schedule that was not moved to a device."""
        signal, spread = self.coefficients(torch.tensor(t))
        return signal.item(), spread.item()

    def q_sample(self, x0: torch.Tensor, t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) noise; x0 and noise (..., D), t (...)."""
        signal, spread = self.coefficients(t)
        return signal * x0 + spread * noise
