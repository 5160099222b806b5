"""HMR-Scorer's image encoder: equality with timm's vision transformer, its position table, padding and resizing."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from adhmr.config.model import ViTConfig
from adhmr.models.vit import ViTEncoder

SMALL = {"neck": "vit", "depth": 2, "dim": 48, "heads": 3, "input_size": (64, 48), "task_tokens": 3}


def small(**options) -> ViTEncoder:
    torch.manual_seed(0)
    return ViTEncoder(ViTConfig(**(SMALL | options))).eval()


def as_timm(encoder: ViTEncoder) -> VisionTransformer:
    """timm's transformer with the same weights: task tokens are its registers, the first position is folded in."""
    config = encoder.config
    model = VisionTransformer(
        img_size=config.input_size,
        patch_size=config.patch,
        embed_dim=config.dim,
        depth=config.depth,
        num_heads=config.heads,
        class_token=False,
        reg_tokens=config.task_tokens,
        no_embed_class=True,
        global_pool="",
        num_classes=0,
    ).eval()
    state = dict(encoder.state_dict())
    position = state.pop("pos_embed")
    state["pos_embed"] = position[:, 1:] + position[:, :1]
    state["reg_token"] = state.pop("task_tokens")
    state |= {f"norm.{part}": state.pop(f"last_norm.{part}") for part in ("weight", "bias")}
    model.load_state_dict(state)
    model.patch_embed.proj.padding = encoder.patch_embed.proj.padding
    return model


@pytest.mark.parametrize("padding", [False, True])
def test_equals_timms_transformer_with_the_same_weights(padding):
    encoder = ViTEncoder(ViTConfig(neck="vit", legacy_patch_padding=padding)).eval()
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 85_818_624
    for name, parameter in encoder.named_parameters():
        if parameter.ndim == 1:  # biases are zero at first, which would hide a missing one
            torch.nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.1)
    image = torch.randn(2, 3, 256, 192)
    with torch.no_grad():
        found = encoder.encode(image)
        timm = as_timm(encoder)
        tokens = timm.forward_features(image)
    assert found.shape == (2, 768, 16, 12)
    expected = tokens[:, 31:].transpose(1, 2).reshape(2, 768, 16, 12)  # row by row
    assert (found - expected).abs().max() / expected.abs().max() < 1e-5


def test_the_first_position_is_added_to_every_patch_and_to_no_task_token():
    encoder = small()
    image = torch.randn(1, 3, 64, 48)
    with torch.no_grad():
        before = encoder.encode(image)
        moved = torch.randn(1, 1, 48)
        encoder.pos_embed[:, :1] += moved
        assert not torch.allclose(encoder.encode(image), before, atol=1e-3)
        encoder.pos_embed[:, 1:] -= moved  # the same sum for each patch
        torch.testing.assert_close(encoder.encode(image), before, atol=1e-5, rtol=1e-5)


def test_padding_shifts_what_a_patch_sees_by_two_pixels():
    plain, padded = small(), small(legacy_patch_padding=True)
    padded.load_state_dict(plain.state_dict())
    image = torch.randn(1, 3, 64, 48)
    shifted = torch.zeros_like(image)
    shifted[:, :, 2:, 2:] = image[:, :, :-2, :-2]
    with torch.no_grad():
        torch.testing.assert_close(padded.encode(image), plain.encode(shifted))
        assert not torch.allclose(padded.encode(image), plain.encode(image), atol=1e-3)


def test_nearest_resize_takes_every_other_pixel():
    nearest = small(legacy_nearest_resize=True, legacy_unit_range=True)
    image = torch.randint(0, 256, (1, 3, 128, 96), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(nearest(image), nearest.encode(image[:, :, ::2, ::2] / 255.0))


def test_plain_resize_averages_and_normalises():
    encoder = small()
    image = torch.full((1, 3, 128, 96), 128.0)
    image[:, :, ::2] = 0.0  # rows of a fine grid: their mean is 64
    expected = (torch.full((1, 3, 64, 48), 64.0 / 255.0) - encoder.mean) / encoder.std
    with torch.no_grad():
        inner = encoder(image)[:, :, 1:-1]  # the edges average fewer rows
        torch.testing.assert_close(inner, encoder.encode(expected)[:, :, 1:-1], atol=0.05, rtol=0.05)


def test_stochastic_depth_is_for_training_only():
    encoder = small(drop_path=0.5)
    image = torch.randn(4, 3, 64, 48)
    with torch.no_grad():
        assert torch.equal(encoder.encode(image), encoder.encode(image))
        encoder.train()
        assert not torch.equal(encoder.encode(image), encoder.encode(image))
