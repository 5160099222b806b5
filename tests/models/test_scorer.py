"""HMR-Scorer: parity of the head with the official one, variants, hypotheses."""

import pytest
import torch

from adhmr.config.model import ScorerConfig
from adhmr.models.encoder import sample_local
from adhmr.models.official_names import scorer_head_state
from adhmr.models.scorer import HMRScorer, ScorerHead, TokenAdapter, score_of

from .conftest import ENCODER, TRANSFORMER, reference_arrays, reference_state, relative_error


def test_head_equals_the_official_one(reference_dir):
    head, adapter = ScorerHead(ScorerConfig(), memory_grid=(16, 12)).eval(), TokenAdapter(768, 512, 256).eval()
    assert sum(p.numel() for module in (head, adapter) for p in module.parameters()) == 44_902_401
    state = reference_state(reference_dir, "hmr_scorer_state_dict.json", "score_net")
    for module, part in zip((head, adapter), scorer_head_state(state), strict=True):
        module.load_state_dict(part)
    expected = reference_arrays(reference_dir, "hmr_scorer_head.npz")
    with torch.no_grad():
        memory, local_map = adapter(expected["encoder_tokens"])
        local = sample_local(local_map, expected["uvd"][..., :2], align_corners=True)
        raw = head(memory, local, expected["uvd"].flatten(2))
    assert relative_error(raw, expected["raw"]) < 1e-4
    assert relative_error(score_of(raw), expected["score"]) < 1e-4


VARIANTS = [("uvd", True), ("uvd", False), ("2d", True), ("2d", False), ("pose6d", False)]


@pytest.mark.parametrize(("variant", "relative"), VARIANTS)
def test_variants_score_hypotheses_independently(images, variant, relative):
    config = ScorerConfig(
        encoder=ENCODER, crop_size=64, variant=variant, relative=relative, hidden_dims=(256, 32), **TRANSFORMER
    )
    scorer = HMRScorer(config).eval()
    hypotheses = torch.randn(2, 5, 24, 6) if variant == "pose6d" else torch.rand(2, 5, 29, 3) * 64
    with torch.no_grad():
        features = scorer.encoder(images)
        raw = scorer.score(features, hypotheses, 64)
        alone = scorer.score(features, hypotheses[:, 3:4], 64)
    assert raw.shape == (2, 5)
    torch.testing.assert_close(raw[:, 3:4], alone, atol=1e-5, rtol=1e-4)
    assert raw.std() > 0


def test_two_dimensional_variant_ignores_depth(images):
    scorer = HMRScorer(
        ScorerConfig(encoder=ENCODER, crop_size=64, variant="2d", hidden_dims=(256, 32), **TRANSFORMER)
    ).eval()
    uvd = torch.rand(2, 3, 29, 3) * 64
    deeper = uvd + torch.tensor([0.0, 0.0, 1.0])
    with torch.no_grad():
        features = scorer.encoder(images)
        assert torch.equal(scorer.score(features, uvd, 64), scorer.score(features, deeper, 64))


def test_pixels_are_relative_to_the_crop(images, scorer_config):
    scorer = HMRScorer(scorer_config).eval()
    uvd = torch.rand(2, 3, 29, 3) * 64
    scaled = uvd * torch.tensor([2.0, 2.0, 1.0])
    with torch.no_grad():
        features = scorer.encoder(images)
        torch.testing.assert_close(scorer.score(features, uvd, 64), scorer.score(features, scaled, 128))


def test_relative_poses_need_joints():
    with pytest.raises(ValueError, match="relative"):
        ScorerConfig(encoder=ENCODER, crop_size=64, variant="pose6d", relative=True, **TRANSFORMER)


def test_hidden_width_must_fill_the_groups():
    with pytest.raises(ValueError, match="hidden_dims"):
        ScorerConfig(encoder=ENCODER, crop_size=64, hidden_dims=(100, 32), **TRANSFORMER)
