"""bf16 and torch.compile change little, and nothing is copied between host and device while a model runs.

Bounds stated in docs/benchmarks.md; speed is measured by tools/benchmark/denoiser.py.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from adhmr.body.hypotheses import Hypotheses
from adhmr.config.model import BaseModelConfig, DenoiserConfig, ScorerConfig
from adhmr.diffusion.sampler import ddim_sample
from adhmr.models.base_model import BaseModel
from adhmr.models.denoiser import Denoiser
from adhmr.models.encoder import ImageFeatures
from adhmr.models.scorer import HMRScorer
from adhmr.objectives.denoising import betas_loss, heatmap_loss, noise_loss
from adhmr.objectives.preference import GroupErrors, denoising_error, dpo
from adhmr.objectives.ranking import calibration_loss, rank_loss

from .conftest import ENCODER, TRANSFORMER, small_features
from .test_scorer import VIT, some_hypotheses

PLAIN = {**TRANSFORMER, "input_norm": True}  # the paper's form: no preconditioning
EDM = {**TRANSFORMER, "preconditioning": "edm", "anchor": True, "sigma_joint": 6.0}


def spread_weights(module: torch.nn.Module) -> None:
    """Weights of the size that training gives them; at first the official initialisation makes all outputs tiny."""
    for parameter in module.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, 0.0, parameter.shape[1] ** -0.5)


def predict(denoiser, x: torch.Tensor, t: torch.Tensor, features: ImageFeatures) -> torch.Tensor:
    return torch.cat(denoiser(x[..., :87], x[..., 87:], t, features), -1)


@pytest.mark.parametrize("options", [PLAIN, EDM], ids=["plain", "edm"])
def test_bf16_changes_noise_and_samples_by_little(options):
    """The network's own part of the noise within 3 % of its largest value, samples within half a unit of x0's 50."""
    denoiser = Denoiser(DenoiserConfig(**options), memory_grid=(4, 4)).eval()
    spread_weights(denoiser)
    features, x, t = small_features(), 20 * torch.randn(2, 6, 133), torch.randint(0, 1000, (2, 6))
    noise = torch.randn(2, 6, 133)
    with torch.no_grad():
        exact, sampled = predict(denoiser, x, t, features), torch.cat(ddim_sample(denoiser, features, 6, noise), -1)
        with torch.autocast("cpu", torch.bfloat16):
            found = predict(denoiser, x, t, features)
            rounded = torch.cat(ddim_sample(denoiser, features, 6, noise), -1)
    assert found.dtype == rounded.dtype == torch.float32
    own = exact - x if options is PLAIN else exact
    assert (found - exact).abs().max() / own.abs().max() < 0.03
    assert 0 < (rounded - sampled).abs().mean() < 0.05
    assert (rounded - sampled).abs().max() < 0.5


@pytest.mark.parametrize("options", [PLAIN, EDM], ids=["plain", "edm"])
def test_the_denoiser_is_one_graph_without_breaks(options):
    denoiser = Denoiser(DenoiserConfig(**options), memory_grid=(4, 4)).eval()
    spread_weights(denoiser)
    compiled = torch.compile(denoiser, fullgraph=True, backend="aot_eager")
    features, x, t = small_features(), 20 * torch.randn(2, 3, 133), torch.randint(0, 1000, (2, 3))
    with torch.no_grad():
        expected, found = predict(denoiser, x, t, features), predict(compiled, x, t, features)
    assert (found - expected).abs().max() / expected.abs().max() < 1e-6
    predict(compiled, x, t, features).square().mean().backward()
    in_graph = {name: parameter.grad.clone() for name, parameter in denoiser.named_parameters()}
    denoiser.zero_grad()
    predict(denoiser, x, t, features).square().mean().backward()
    for name, parameter in denoiser.named_parameters():
        torch.testing.assert_close(in_graph[name], parameter.grad, atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.slow
def test_compiled_kernels_give_the_same_noise():
    """torch.compile's own kernels: 1e-5 of the largest output in fp32, the same bounds as without them in bf16."""
    denoiser = Denoiser(DenoiserConfig(**{**PLAIN, "reaches": (7,)}), memory_grid=(4, 4)).eval()
    spread_weights(denoiser)
    compiled = torch.compile(denoiser, fullgraph=True)
    features, x, t = small_features(), 20 * torch.randn(2, 3, 133), torch.randint(0, 1000, (2, 3))
    with torch.no_grad():
        exact = predict(denoiser, x, t, features)
        assert (predict(compiled, x, t, features) - exact).abs().max() / exact.abs().max() < 1e-5
        with torch.autocast("cpu", torch.bfloat16):
            found = predict(compiled, x, t, features)
    assert (found - exact).abs().max() / (exact - x).abs().max() < 0.03


def test_losses_are_taken_in_fp32_whatever_the_networks_precision():
    """Under autocast, of bf16 outputs: the same number as of the same outputs in fp32 outside of it."""
    torch.manual_seed(0)
    eps, noise, weight = torch.randn(4, 3, 87).bfloat16(), torch.randn(4, 3, 87), torch.rand(4, 87)
    betas, logits, raw = (
        torch.randn(4, 10).bfloat16(),
        torch.randn(4, 29, 8, 8).bfloat16(),
        torch.randn(4, 6).bfloat16(),
    )
    target, error = torch.rand(4, 29, 2), torch.rand(4, 6)

    def losses(cast) -> list[torch.Tensor]:
        errors = denoising_error(cast(eps), noise, torch.ones(()))
        pairs = GroupErrors(errors[:, :2], errors[:, 1:].flip(-1), torch.zeros(4, 2))
        return [
            noise_loss(cast(eps), noise, weight),
            betas_loss(cast(betas), torch.zeros(4, 10)),
            heatmap_loss(cast(logits), target, torch.ones(4, 29)),
            rank_loss(cast(raw), error),
            calibration_loss(cast(raw), error),
            dpo(pairs, beta=100.0)[0],
        ]

    expected = losses(torch.Tensor.float)
    with torch.autocast("cpu", torch.bfloat16):
        found = losses(lambda tensor: tensor)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, atol=0, rtol=1e-6)


class CrossDevice(TorchDispatchMode):
    """Notes every operation whose tensors lie on more than one device. Reading a number of a meta tensor raises."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        leaves = tree_leaves((arguments, keywords, result))
        devices = {leaf.device.type for leaf in leaves if torch.is_tensor(leaf)}
        if len(devices) > 1:
            self.found.append(str(function))
        return result


def test_the_watch_sees_a_copy():
    with CrossDevice() as watch:
        torch.ones(3).to("meta")
    assert watch.found == ["aten._to_copy.default"]


def test_encoding_and_sampling_copy_nothing_between_host_and_device():
    model = BaseModel(BaseModelConfig(encoder=ENCODER, denoiser=PLAIN, crop_size=64)).to("meta").eval()
    image = torch.zeros(2, 3, 64, 64, dtype=torch.uint8, device="meta")
    noise = torch.zeros(2, 3, 133, device="meta")
    with CrossDevice() as watch, torch.no_grad():
        joint, twist = ddim_sample(model.denoiser, model.encoder(image), 3, noise)
    assert watch.found == [] and joint.shape == (2, 3, 87) and twist.device.type == "meta"


@pytest.mark.parametrize("variant", ["uvd", "2d", "pose6d", "uvd_twist", "tall"])
def test_scoring_copies_nothing_between_host_and_device(variant):
    options = {"encoder": VIT, "crop_size": 64, "crop_aspect": 0.75} if variant == "tall" else {
        "encoder": ENCODER, "crop_size": 64, "variant": variant
    }  # fmt: skip
    scorer = HMRScorer(ScorerConfig(**options, hidden_dims=(256, 32), **TRANSFORMER)).to("meta").eval()
    hypotheses = Hypotheses(*(part.to("meta") for part in some_hypotheses()))
    image = torch.zeros(2, 3, 64, 64, dtype=torch.uint8, device="meta")
    with CrossDevice() as watch, torch.no_grad():
        raw = scorer(image, hypotheses)[1]
    assert watch.found == [] and raw.shape == (2, 5)
