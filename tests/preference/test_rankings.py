from dataclasses import replace

import pytest
import torch

from adhmr.body.hypotheses import Hypotheses
from adhmr.errors import AdhmrError
from adhmr.models.weights import load_model
from adhmr.preference.rankings import RANKINGS, RankingContext, training_free
from adhmr.preference.scoring import Scoring
from tests.tiny import CROP


@pytest.fixture
def context(tiny_weights, batch) -> RankingContext:
    base, scorer = (load_model(tiny_weights / f"{kind}.safetensors", kind) for kind in ("base", "scorer"))
    scoring = Scoring(scorer, base)
    uvd = batch["uvd"][:, None] + torch.randn(4, 5, 29, 3) * torch.tensor([3.0, 3.0, 0.1])
    hypotheses = Hypotheses(uvd, batch["twists"][:, None].expand(-1, 5, -1, -1))
    with torch.no_grad():
        features = base.encoder(batch["image"])
    errors = torch.rand(4, 5)
    return RankingContext(batch["key"], batch["image"], features, hypotheses, CROP["size"], 0, scoring, errors)


@torch.no_grad()
@pytest.mark.parametrize("name", RANKINGS)
def test_a_value_for_each_hypothesis_whatever_their_order(context, name):
    value = RANKINGS[name](context)
    assert value.shape == (4, 5) and torch.isfinite(value).all() and value.dtype == torch.float32
    if name in ("error", "random", "mode"):
        return  # by position: given, drawn, or against the first
    backwards = Hypotheses(context.hypotheses.uvd.flip(1), context.hypotheses.twists.flip(1))
    torch.testing.assert_close(RANKINGS[name](replace(context, hypotheses=backwards)).flip(1), value)


def test_error_is_better_the_smaller(context):
    assert torch.equal(RANKINGS["error"](context).argmax(1), context.errors.argmin(1))


def test_chance_is_keyed_by_image_and_seed(context):
    value = RANKINGS["random"](context)
    assert torch.equal(value, RANKINGS["random"](context))
    assert torch.equal(RANKINGS["random"](replace(context, keys=context.keys[::-1])).flip(0), value)
    assert not torch.equal(RANKINGS["random"](replace(context, seed=1)), value)


def test_mode_prefers_the_zero_noise_hypothesis(context):
    value = RANKINGS["mode"](context)
    assert (value.argmax(1) == 0).all() and (value[:, 0] == 0).all() and (value[:, 1:] < 0).all()


def test_joints2d_prefers_what_the_encoder_saw(context):
    uvd = context.hypotheses.uvd.clone()
    uvd[:, 3, :, :2] = (context.features.joints2d + 1) * CROP["size"] / 2
    value = RANKINGS["joints2d"](replace(context, hypotheses=Hypotheses(uvd, context.hypotheses.twists)))
    assert (value.argmax(1) == 3).all() and value[:, 3].abs().max() < 1e-4


def test_joints3d_prefers_what_the_encoder_saw_in_depth_too(context):
    uvd = context.hypotheses.uvd.clone()
    uvd[:, 2:4, :, :2] = (context.features.joints2d[:, None] + 1) * CROP["size"] / 2
    uvd[:, 3, :, 2] = context.features.depth
    uvd[:, 2, :, 2] = context.features.depth + 0.25  # a quarter of a metre: an eighth of the crop
    changed = replace(context, hypotheses=Hypotheses(uvd, context.hypotheses.twists))
    value = RANKINGS["joints3d"](changed)
    assert (value.argmax(1) == 3).all() and value[:, 3].abs().max() < 1e-4
    torch.testing.assert_close(value[:, 2], torch.full((4,), -0.25 * CROP["size"] / 2))
    with pytest.raises(AdhmrError, match="joints3d' needs an encoder that estimates depth"):
        RANKINGS["joints3d"](replace(changed, features=changed.features._replace(depth=None)))


def test_mean_prefers_the_middle(context):
    uvd = context.hypotheses.uvd.clone()
    uvd[:, 4] = uvd[:, :4].mean(1)
    value = RANKINGS["mean"](replace(context, hypotheses=Hypotheses(uvd, context.hypotheses.twists)))
    assert (value.argmax(1) == 4).all() and value[:, 4].abs().max() < 1e-4


def test_training_free_rankings_are_those_that_the_encoder_can_give(tiny_weights, context):
    encoder = load_model(tiny_weights / "base.safetensors", "base").config.encoder
    names = training_free(encoder)
    assert names == ["mode", "mean", "joints2d", "joints3d"]
    bare = replace(context, scorer=None, errors=None)
    assert all(RANKINGS[name](bare).shape == (4, 5) for name in names)
    assert "joints3d" not in training_free(encoder.model_copy(update={"depth_head": False}))


@pytest.mark.parametrize(("name", "missing"), [("scorer", "scorer"), ("error", "errors")])
def test_what_a_ranking_lacks_is_named(context, name, missing):
    with pytest.raises(AdhmrError, match=f"ranking '{name}' needs"):
        RANKINGS[name](replace(context, **{missing: None}))
