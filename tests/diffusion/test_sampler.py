"""DDIM sampling on denoisers whose answer is known. Equality with the official sampler: tests/test_parity.py."""

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


def test_eta_zero_is_the_deterministic_path_bit_for_bit():
    joint, twist = torch.randn(2, 3, 87), torch.randn(2, 3, 46)
    noise = torch.randn(2, 3, 133)
    plain = ddim_sample(exact_denoiser(joint, twist, []), None, 3, noise, 5)
    given = ddim_sample(exact_denoiser(joint, twist, []), None, 3, noise, 5, eta=0.0, fresh_noise=lambda step: 1 / 0)
    assert all(torch.equal(a, b) for a, b in zip(plain, given))


def test_stochastic_steps_keep_the_marginal_of_the_forward_process():
    """With the true x0 known to the denoiser, x_t must stay signal x0 + spread noise of unit variance at every step."""
    count = 4000
    joint, twist = torch.full((1, count, 87), 3.0), torch.full((1, count, 46), -2.0)
    exact = exact_denoiser(joint, twist, [])
    seen = []

    def denoiser(x_joint, x_twist, t, features):
        eps = exact(x_joint, x_twist, t, features)
        seen.append((eps[0].std().item(), eps[0].mean().item()))
        return eps

    generator = torch.Generator().manual_seed(0)
    fresh = [torch.randn(1, count, 133, generator=generator) for _ in range(5)]
    noise = torch.randn(1, count, 133, generator=generator)
    first = torch.full((1, count), ddim_timesteps(1000, 5)[0])
    noise = LinearSchedule().q_sample(torch.cat([joint, twist], -1), first, noise)
    steps = []

    def draw(step):
        steps.append(step)
        return fresh[step]

    found = ddim_sample(denoiser, None, count, noise, 5, False, 1.0, draw)
    assert steps == [0, 1, 2, 3]  # none is added in the last
    torch.testing.assert_close(found[0], joint, atol=2e-3, rtol=0)
    for spread, mean in seen:
        assert abs(spread - 1) < 0.01 and abs(mean) < 0.01


def test_stochastic_sampling_needs_noise_and_leaves_the_mode_alone():
    joint, twist = torch.zeros(1, 2, 87), torch.zeros(1, 2, 46)
    with pytest.raises(ValueError, match="fresh_noise"):
        ddim_sample(exact_denoiser(joint, twist, []), None, 2, torch.randn(1, 2, 133), eta=0.5)

    def denoiser(x_joint, x_twist, t, features):
        return 0.1 * x_joint, 0.1 * x_twist

    noise = torch.randn(1, 2, 133)
    found = [ddim_sample(denoiser, None, 2, noise, eta=1.0, fresh_noise=lambda step, k=k: torch.full((1, 2, 133), k))[0]
             for k in (1.0, 2.0)]  # fmt: skip
    assert torch.equal(found[0][:, 0], found[1][:, 0]) and not torch.equal(found[0][:, 1], found[1][:, 1])
