"""Weights of timesteps in a loss on the predicted noise: omega(lambda_t) of Diffusion-DPO.

They are those of the schedule alone, whose data have unit spread; how they enter a loss is its own affair."""

import torch

from adhmr.config.alignment import Weighting
from adhmr.diffusion.schedule import LinearSchedule

MIN_SNR_GAMMA = 5.0


def timestep_weights(weighting: Weighting, schedule: LinearSchedule) -> torch.Tensor:
    """(T,) with mean 1, of squared errors of the noise at each timestep. With abar the schedule's products, alpha_t =
    abar_t / abar_(t-1) and snr = abar / (1 - abar):

    constant: 1.
    min_snr: min(snr, 5) / snr, which is 1 at noisy timesteps and falls where little noise is left.
    elbo: (1 - alpha_t) / (2 alpha_t (1 - abar_t)), the variational bound's (with the posterior's variance taken as
        1 - alpha_t), which is largest where little noise is left.
    """
    abar = schedule.alphas_cumprod.double()
    if weighting == "constant":
        weights = torch.ones_like(abar)
    elif weighting == "min_snr":
        snr = abar / (1 - abar)
        weights = snr.clamp(max=MIN_SNR_GAMMA) / snr
    else:
        alpha = abar / torch.cat([abar.new_ones(1), abar[:-1]])
        weights = (1 - alpha) / (2 * alpha * (1 - abar))
    return (weights / weights.mean()).float()
