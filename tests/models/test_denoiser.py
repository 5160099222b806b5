"""The denoiser: size, hypotheses, preconditioning. Equality with the official one: tests/test_parity.py."""

import pytest
import torch

from adhmr.config.model import DenoiserConfig
from adhmr.diffusion.sampler import ddim_sample
from adhmr.diffusion.schedule import LinearSchedule
from adhmr.models.denoiser import Denoiser

from .conftest import TRANSFORMER, small_features


def test_parameter_count_at_paper_size():
    with torch.device("meta"):
        denoiser = Denoiser(DenoiserConfig(), memory_grid=(8, 8))
    assert sum(parameter.numel() for parameter in denoiser.parameters()) == 28_343_173


def perturbed(config: DenoiserConfig) -> Denoiser:
    """A denoiser whose output layers are not zero."""
    torch.manual_seed(0)
    denoiser = Denoiser(config, (4, 4)).eval()
    for layer in (denoiser.joint_output, denoiser.twist_output):
        torch.nn.init.normal_(layer.weight, std=0.02)
    return denoiser


EDM = {**TRANSFORMER, "preconditioning": "edm", "anchor": True, "sigma_joint": 6.0, "sigma_twist": 15.0}


@pytest.mark.parametrize("options", [TRANSFORMER, {**TRANSFORMER, "preconditioning": "edm"}, EDM])
def test_hypotheses_equal_separate_calls(options):
    denoiser, features = perturbed(DenoiserConfig(**options)), small_features()
    joint, twist, t = torch.randn(2, 4, 87), torch.randn(2, 4, 46), torch.randint(0, 1000, (2, 4))
    with torch.no_grad():
        together = denoiser(joint, twist, t, features)
        for m in range(4):
            alone = denoiser(joint[:, m : m + 1], twist[:, m : m + 1], t[:, m : m + 1], features)
            torch.testing.assert_close(together[0][:, m], alone[0][:, 0], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(together[1][:, m], alone[1][:, 0], atol=1e-5, rtol=1e-4)


def test_untrained_anchored_denoiser_samples_the_anchor():
    """With zero output layers the prediction is the preconditioning's own: from zero noise, the encoder's estimate."""
    denoiser, features = Denoiser(DenoiserConfig(**EDM), (4, 4)).eval(), small_features()
    joint, twist = ddim_sample(denoiser, features, 2, torch.randn(2, 2, 133))
    anchor = torch.cat([features.joints2d, features.depth[..., None]], -1).flatten(1) * 50.0
    # x = 0 at t = 999 is not quite the mode of data about a centre c: the flow keeps s / sqrt(sigma^2 + s^2) of -c.
    remainder = 6.0 / (denoiser.noise_level[999] ** 2 + 6.0**2).sqrt()
    assert ((joint[:, 0] - anchor).abs() <= remainder * anchor.abs() + 1e-3).all()
    cosines, sines = twist[:, 0].unflatten(-1, (23, 2)).unbind(-1)
    assert sines.abs().max() < 1e-4
    assert 0.85 * 45.0 < cosines.min() <= cosines.max() <= 45.0  # a typical twist: cosine 0.9
    assert 1.0 < (joint[:, 1] - anchor).std() < 12.0  # the others spread about it


def test_network_output_is_the_residual_to_the_anchor_at_high_noise():
    """x0 implied by the predicted noise at t = 999 is anchor + sigma * network output (+ the small skip)."""
    denoiser, features = perturbed(DenoiserConfig(**EDM)), small_features()
    torch.nn.init.zeros_(denoiser.joint_output.weight)
    torch.nn.init.constant_(denoiser.joint_output.bias, 0.5)
    t = torch.full((2, 1), 999)
    with torch.no_grad():
        eps, _ = denoiser(torch.zeros(2, 1, 87), torch.zeros(2, 1, 46), t, features)
    signal, spread = LinearSchedule().coefficients(t)
    x0 = (-spread * eps / signal)[:, 0]
    anchor = torch.cat([features.joints2d, features.depth[..., None]], -1).flatten(1) * 50.0
    torch.testing.assert_close(x0, anchor + 3.0, atol=0.1, rtol=0)


def test_noise_prediction_is_finite_and_bounded_at_every_level():
    denoiser, features = perturbed(DenoiserConfig(**EDM)), small_features(depth=False)
    schedule = LinearSchedule()
    t = torch.tensor([[0, 1, 10, 100, 500, 999]] * 2)
    noise = torch.randn(2, 6, 87)
    anchor = torch.cat([features.joints2d, torch.zeros(2, 29, 1)], -1).flatten(1)[:, None] * 50.0
    x_joint = schedule.q_sample(anchor + torch.randn(2, 1, 87) * 6, t, noise)
    x_twist = schedule.q_sample(torch.randn(2, 1, 46) * 15, t, torch.randn(2, 6, 46))
    with torch.no_grad():
        eps = torch.cat(denoiser(x_joint, x_twist, t, features), -1)
    assert torch.isfinite(eps).all() and eps.abs().max() < 20
    error = (eps[:, -1, :87] - noise[:, -1]).abs().max()
    assert error < 0.2  # at t = 999 the input is almost pure noise, so it is predicted well without training


def test_loss_weights_undo_the_output_scale():
    """The weighted noise error must not depend on t for a given error of the network's output."""
    denoiser, features = perturbed(DenoiserConfig(**EDM)), small_features()
    t = torch.tensor([[0, 300, 999]] * 2)
    inputs = torch.randn(2, 3, 87), torch.randn(2, 3, 46), t, features
    with torch.no_grad():
        before = denoiser(*inputs)
        denoiser.joint_output.bias += 1.0
        denoiser.twist_output.bias += 1.0
        after = denoiser(*inputs)
    for weight, old, new in zip(denoiser.loss_weights(t), before, after, strict=True):
        torch.testing.assert_close(weight * (new - old) ** 2, torch.ones_like(new), atol=1e-3, rtol=1e-3)


def test_bf16_autocast_keeps_float_outputs_close():
    denoiser, features = perturbed(DenoiserConfig(**EDM)), small_features()
    inputs = torch.randn(2, 2, 87), torch.randn(2, 2, 46), torch.tensor([[0, 999], [400, 10]]), features
    with torch.no_grad():
        exact = denoiser(*inputs)
        with torch.autocast("cpu", torch.bfloat16):
            rough = denoiser(*inputs)
    assert rough[0].dtype == torch.float32
    torch.testing.assert_close(rough[0], exact[0], atol=0.05, rtol=0.05)


def test_anchor_needs_preconditioning():
    with pytest.raises(ValueError, match="anchor"):
        DenoiserConfig(anchor=True)
