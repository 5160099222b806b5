"""DDIM sampling on denoisers whose answer is known. Equality with the official sampler is in tests/models."""

import pytest
import torch

from adhmr.diffusion.sampler import ddim_sample, ddim_timesteps
from adhmr.diffusion.schedule import LinearSchedule


def test_three_steps_are_four_calls():
    assert ddim_timesteps(1000, 3) == [999, 666, 333, 0]
    assert ddim_timesteps(1000, 10) == list(range(900, -1, -100))


def exact_denoiser(x0_joint: torch.Tensor, x0_twist: torch.Tensor, calls: list[int]):
    """Predicts exactly the noise that separates its input from a known x0."""
    schedule = LinearSchedule()

    def denoiser(joint, twist, t, features):
        calls.append(int(t[0, 0]))
        signal, spread = schedule.coefficients(t)
        return (joint - signal * x0_joint) / spread, (twist - signal * x0_twist) / spread

    return denoiser


@pytest.mark.parametrize("steps", [3, 10])
def test_an_exact_denoiser_gives_its_x0(steps):
    joint, twist, calls = torch.randn(2, 1, 87) * 20, torch.randn(2, 1, 46) * 40, []
    found = ddim_sample(exact_denoiser(joint, twist, calls), None, 5, torch.randn(2, 5, 133), steps)
    assert calls == ddim_timesteps(1000, steps)
    torch.testing.assert_close(found[0], joint.expand(2, 5, 87), atol=5e-3, rtol=1e-4)
    torch.testing.assert_close(found[1], twist.expand(2, 5, 46), atol=5e-3, rtol=1e-4)


def test_first_hypothesis_starts_from_zero_noise_and_the_callers_noise_is_left_alone():
    starts = []

    def denoiser(joint, twist, t, features):
        starts.append(joint.clone())
        return torch.zeros_like(joint), torch.zeros_like(twist)

    noise = torch.randn(2, 3, 133)
    kept = noise.clone()
    ddim_sample(denoiser, None, 3, noise)
    assert torch.count_nonzero(starts[0][:, 0]) == 0
    assert torch.equal(starts[0][:, 1:], kept[:, 1:, :87])
    assert torch.equal(noise, kept)


def test_noise_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="noise must be"):
        ddim_sample(lambda *_: None, None, 4, torch.randn(2, 3, 133))
