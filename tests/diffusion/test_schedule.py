"""The noise schedule against the official values."""

import numpy as np
import pytest
import torch

from adhmr.diffusion.schedule import LinearSchedule


def test_equals_the_official_schedule(reference_dir):
    with np.load(reference_dir / "hyponet_forward.npz") as archive:
        np.testing.assert_allclose(LinearSchedule().alphas_cumprod.numpy(), archive["alphas_cumprod"], rtol=1e-5)


@pytest.mark.parametrize(("t", "signal"), [(0, 0.99995), (333, 0.5645), (666, 0.1048), (999, 0.00635)])
def test_signal_levels(t, signal):
    found, spread = LinearSchedule().coefficients(torch.tensor([t]))
    assert found.item() == pytest.approx(signal, rel=2e-3)
    assert found.item() ** 2 + spread.item() ** 2 == pytest.approx(1.0, abs=1e-6)


def test_q_sample_mixes_by_each_hypothesis_own_time():
    schedule = LinearSchedule()
    x0, noise = torch.full((1, 2, 3), 10.0), torch.full((1, 2, 3), -1.0)
    x = schedule.q_sample(x0, torch.tensor([[0, 999]]), noise)
    assert x[0, 0, 0].item() == pytest.approx(10.0, abs=0.02)
    assert x[0, 1, 0].item() == pytest.approx(-1.0 + 0.0635, abs=2e-3)
