"""The masked layer equals a plain layer with masked weights, and masked entries neither act nor learn."""

import torch
import torch.nn.functional as F

from adhmr.models.masked_linear import MaskedLinear

MASK = torch.tensor([[1, 1, 0], [0, 1, 1]], dtype=torch.bool)  # (2 tokens out, 3 tokens in)


def test_equals_a_plain_layer_with_premasked_weights():
    layer = MaskedLinear(MASK, features_in=4, features_out=5)
    premasked = layer.weight.detach().clone()
    premasked[:5, 8:] = 0
    premasked[5:, :4] = 0
    flat = torch.randn(7, 12)
    assert torch.equal(layer(flat), F.linear(flat, premasked, layer.bias))


def test_masked_entries_get_no_gradient():
    layer = MaskedLinear(MASK, features_in=4, features_out=5)
    layer(torch.randn(7, 12)).square().sum().backward()
    assert torch.count_nonzero(layer.weight.grad[:5, 8:]) == 0
    assert torch.count_nonzero(layer.weight.grad[5:, :4]) == 0
    assert torch.count_nonzero(layer.weight.grad[:5, :8]) == 40


def test_mask_is_not_saved():
    assert set(MaskedLinear(MASK, 4, 5).state_dict()) == {"weight", "bias"}
