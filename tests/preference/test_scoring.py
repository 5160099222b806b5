import pytest
import torch

from adhmr.body.hypotheses import Hypotheses
from adhmr.config.model import ScorerConfig
from adhmr.models.scorer import HMRScorer
from adhmr.models.weights import load_model
from adhmr.preference.scoring import Scoring
from tests.tiny import SCORER


@pytest.fixture
def base(tiny_weights):
    return load_model(tiny_weights / "base.safetensors", "base")


def scorer(**changes) -> HMRScorer:
    torch.manual_seed(3)
    return HMRScorer(ScorerConfig(**{**SCORER, **changes})).eval()


def hypotheses_of(batch) -> Hypotheses:
    uvd = batch["uvd"][:, None] + torch.randn(4, 7, 29, 3) * torch.tensor([3.0, 3.0, 0.1])
    return Hypotheses(uvd, batch["twists"][:, None].expand(-1, 7, -1, -1))


@torch.no_grad()
@pytest.mark.parametrize("variant", ["uvd", "2d", "uvd_twist"])
def test_the_bases_own_encoder_runs_once(base, batch, variant):
    found = scorer(variant=variant)
    found.encoder.load_state_dict(base.encoder.state_dict())
    hypotheses, features = hypotheses_of(batch), base.encoder(batch["image"])
    expected = found(batch["image"], hypotheses)[1]
    scoring = Scoring(found, base)
    assert scoring.shared and scoring.scorer.encoder is base.encoder
    scoring.scorer.features = None  # would be called
    assert torch.equal(scoring(batch["image"], features, hypotheses), expected)


@torch.no_grad()
def test_another_encoder_looks_for_itself(base, batch):
    found = scorer()
    hypotheses = hypotheses_of(batch)
    scoring = Scoring(found, base)
    assert not scoring.shared
    expected = found(batch["image"], hypotheses)[1]
    assert torch.equal(scoring(batch["image"], base.encoder(batch["image"]), hypotheses), expected)


def test_an_encoder_of_the_same_weights_that_is_used_otherwise_is_not_shared(base):
    other = scorer(encoder={**SCORER["encoder"], "legacy_channel_order": True})
    other.encoder.load_state_dict(base.encoder.state_dict())
    taller = scorer(crop_size=128, crop_aspect=0.5)
    taller.encoder.load_state_dict(base.encoder.state_dict())
    assert not Scoring(other, base).shared and not Scoring(taller, base).shared


@torch.no_grad()
@pytest.mark.parametrize("per_call", [1, 3, 7, 14, 15])
def test_calls_of_any_size_give_the_same_scores(base, batch, per_call):
    hypotheses, features = hypotheses_of(batch), base.encoder(batch["image"])
    sizes = []
    found = scorer()
    found.head.register_forward_pre_hook(lambda _, given: sizes.append(given[2].shape[0] * given[2].shape[1]))
    whole = Scoring(found, base)(batch["image"], features, hypotheses)
    sizes.clear()
    torch.testing.assert_close(Scoring(found, base, per_call=per_call)(batch["image"], features, hypotheses), whole)
    assert max(sizes) <= per_call and sum(sizes) == 28
