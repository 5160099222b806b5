"""The base model as a whole: every parameter learns; wrong sizes are refused."""

import pytest
import torch

from adhmr.config.model import BaseModelConfig
from adhmr.models.base_model import BaseModel

from .conftest import ENCODER, TRANSFORMER


def test_every_parameter_gets_a_gradient(tiny_config, images):
    model = BaseModel(tiny_config).train()
    t = torch.tensor([[0, 999], [333, 10]])
    for layer in (model.denoiser.joint_output, model.denoiser.twist_output):
        torch.nn.init.normal_(layer.weight, std=0.02)
    features, eps_joint, eps_twist = model(images, torch.randn(2, 2, 87), torch.randn(2, 2, 46), t)
    parts = [features.betas, features.joints2d, features.depth, features.heatmap_logits, eps_joint, eps_twist]
    sum(part.square().sum() for part in parts).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_the_image_matters(tiny_model, images):
    for layer in (tiny_model.denoiser.joint_output, tiny_model.denoiser.twist_output):
        torch.nn.init.normal_(layer.weight, std=0.02)
    x = torch.zeros(2, 1, 87), torch.zeros(2, 1, 46), torch.full((2, 1), 500)
    with torch.no_grad():
        _, eps, _ = tiny_model(images, *x)
        _, other, _ = tiny_model(255 - images, *x)
    assert not torch.allclose(eps, other, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": {**ENCODER, "memory_dim": 32}}, "memory_dim"),
        ({"encoder": {**ENCODER, "local_dim": 16}}, "local_dim"),
        ({"crop_size": 100}, "crop_size"),
        ({"denoiser": {**TRANSFORMER, "heads": 5}}, "heads"),
        ({"denoiser": {**TRANSFORMER, "reaches": []}}, "reaches"),
        ({"encoder": {**ENCODER, "neck": "hrnet"}}, "depth_head"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    values = {"encoder": ENCODER, "denoiser": TRANSFORMER, "crop_size": 64} | change
    with pytest.raises(ValueError, match=message):
        BaseModelConfig(**values)
