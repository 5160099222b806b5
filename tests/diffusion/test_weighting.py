"""Weights of timesteps: by their formulae, with mean 1."""

import pytest
import torch

from adhmr.diffusion.schedule import LinearSchedule
from adhmr.diffusion.weighting import timestep_weights


@pytest.mark.parametrize("weighting", ["constant", "min_snr", "elbo"])
def test_the_mean_is_one_and_none_is_zero(weighting):
    weights = timestep_weights(weighting, LinearSchedule())
    assert weights.shape == (1000,) and weights.dtype == torch.float32
    assert weights.mean().item() == pytest.approx(1.0, rel=1e-6) and (weights > 0).all()


def test_min_snr_by_hand():
    schedule = LinearSchedule()
    weights = timestep_weights("min_snr", schedule)
    snr = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)
    noisy = snr < 5
    assert noisy[200] and not noisy[100]
    torch.testing.assert_close(weights[noisy], weights[999].expand(int(noisy.sum())))  # constant where noise prevails
    torch.testing.assert_close(weights[100] / weights[999], 5 / snr[100])


def test_elbo_by_hand():
    """At t = 0 the bound's weight is one half; by how much more than others is told by the schedule's own betas."""
    weights = timestep_weights("elbo", LinearSchedule()).double()
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    abar = (1 - betas).cumprod(0)
    expected = betas / (2 * (1 - betas) * (1 - abar))
    torch.testing.assert_close(weights / weights[500], expected / expected[500], rtol=2e-3, atol=0)
