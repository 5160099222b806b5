"""The image encoder: sizes, soft-argmax, sampling points. Equality with the official one: tests/test_parity.py."""

import pytest
import torch

from adhmr.config.model import EncoderConfig
from adhmr.errors import AdhmrError
from adhmr.models.encoder import ImageEncoder, sample_local

from .conftest import ENCODER


@pytest.mark.parametrize(("betas_head", "parameters"), [(True, 75_986_151), (False, 73_862_365)])
def test_parameter_count_at_paper_size(betas_head, parameters):
    """Facts G.3. ScoreNet's file also has the layers before the betas, which it never runs: 2,103,296 more."""
    with torch.device("meta"):
        encoder = ImageEncoder(EncoderConfig(betas_head=betas_head))
    assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters


def test_shapes_and_ranges(images):
    features = ImageEncoder(EncoderConfig(**ENCODER)).eval()(images)
    assert features.memory.shape == (2, 16, 64)
    assert features.local_map.shape == (2, 32, 16, 16)
    assert features.local.shape == (2, 52, 32)
    assert features.heatmap_logits.shape == (2, 29, 16, 16)
    assert features.joints2d.shape == (2, 29, 2) and features.joints2d.abs().max() < 1
    assert features.depth.shape == (2, 29)
    assert torch.all(features.betas == features.betas[:1])  # the mean shape before training


def test_uint8_and_float_images_are_the_same(images):
    encoder = ImageEncoder(EncoderConfig(**ENCODER)).eval()
    assert torch.equal(encoder(images).memory, encoder(images.float()).memory)


def test_legacy_normalisation_differs(images):
    plain, legacy = (ImageEncoder(EncoderConfig(**ENCODER, legacy_channel_order=flag)) for flag in (False, True))
    assert plain.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert legacy.mean.flatten().tolist() == pytest.approx([0.406, 0.457, 0.480])


def test_a_peak_is_found_at_its_cell_centre_and_sampled_there():
    encoder = ImageEncoder(EncoderConfig(**ENCODER))
    probability = torch.zeros(1, 29, 16, 16)
    probability[:, :, 3, 10] = 1.0  # row 3, column 10
    points = encoder._expected_points(probability)
    assert points[0, 0].tolist() == pytest.approx([2 * 10.5 / 16 - 1, 2 * 3.5 / 16 - 1])
    sampled = sample_local(probability, points, align_corners=False)
    assert torch.allclose(sampled, torch.ones_like(sampled), atol=1e-5)


def test_bone_points():
    joints = torch.rand(1, 29, 2)
    own, legacy = (ImageEncoder(EncoderConfig(**ENCODER, legacy_bone_points=flag)) for flag in (False, True))
    # twist 17 is that of joint 18, the left elbow: bone elbow (18) to wrist (20); the official code looks at shoulder
    # (16) to elbow, with x and y exchanged
    torch.testing.assert_close(own.token_points(joints)[0, 29 + 17], (joints[0, 18] + joints[0, 20]) / 2)
    torch.testing.assert_close(legacy.token_points(joints)[0, 29 + 17], (joints[0, 16] + joints[0, 18]).flip(0) / 2)


def test_features_index_keeps_missing_parts():
    features = ImageEncoder(EncoderConfig(**{**ENCODER, "depth_head": False})).eval()(torch.zeros(3, 3, 64, 64))
    part = features.index(torch.tensor([2, 0]))
    assert part.depth is None and part.memory.shape[0] == 2
    assert torch.equal(part.joints2d[0], features.joints2d[2])


@pytest.mark.parametrize("backbone", ["no_such_net", "vit_tiny_patch16_224"])
def test_unusable_backbone_is_a_clear_error(backbone):
    with pytest.raises(AdhmrError, match=backbone):
        ImageEncoder(EncoderConfig(**{**ENCODER, "backbone": backbone, "backbone_options": {}}))
