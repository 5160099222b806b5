"""The two attention paths agree; masks hold; memory shared by hypotheses equals memory repeated."""

import torch

from adhmr.models.attention import Attention, DecoderBlock, initialise


def test_plain_and_fused_attention_agree():
    attention = Attention(32, 4, dropout=0.0).eval()
    query, memory = torch.randn(3, 6, 32), torch.randn(3, 5, 32)
    allowed = torch.rand(6, 5) < 0.6
    allowed[:, 0] = True
    plain = attention(query, memory, memory, allowed)
    with torch.no_grad():
        fused = attention(query, memory, memory, allowed)
    torch.testing.assert_close(plain, fused, atol=1e-6, rtol=1e-5)


def test_a_blocked_token_has_no_influence():
    attention = Attention(32, 4, dropout=0.0).eval()
    tokens = torch.randn(1, 4, 32)
    allowed = torch.ones(4, 4, dtype=torch.bool)
    allowed[0, 3] = False
    changed = tokens.clone()
    changed[:, 3] += 5.0
    before = attention(tokens, tokens, tokens, allowed)
    after = attention(tokens, changed, changed, allowed)
    torch.testing.assert_close(before[:, 0], after[:, 0])
    assert not torch.allclose(before[:, 1], after[:, 1])


def test_shared_memory_equals_repeated_memory():
    block = DecoderBlock(32, 4, 64, dropout=0.0).eval()
    tokens, memory = torch.randn(2, 3, 7, 32), torch.randn(2, 5, 32)
    positions = torch.randn(7, 32), torch.randn(5, 32)
    allowed = torch.ones(7, 7, dtype=torch.bool)
    with torch.no_grad():
        shared = block(tokens, memory, *positions, allowed)
        repeated = block(tokens.view(6, 1, 7, 32), memory.repeat_interleave(3, 0), *positions, allowed)
    torch.testing.assert_close(shared.view(6, 1, 7, 32), repeated, atol=1e-5, rtol=1e-5)


def test_official_initialisation_bounds_the_norm():
    layer = torch.nn.Linear(64, 64)
    initialise(layer, "unit_norm")
    assert layer.weight.norm().item() <= 1.0 + 1e-6
    assert torch.all(layer.bias == 0.01)
