"""Reward models: sizes, variants and what each looks at, crops. Equality with the official: tests/test_parity.py."""

from pathlib import Path

import pytest
import roma
import torch

from adhmr.body.hypotheses import Hypotheses
from adhmr.config.loading import load_config
from adhmr.config.model import ScorerConfig
from adhmr.errors import AdhmrError
from adhmr.models.scorer import HMRScorer, letterbox

from .conftest import ENCODER, TRANSFORMER

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "models"


@pytest.mark.parametrize(
    ("preset", "parameters"), [("hmr-scorer", 44_902_401), ("scorenet", 53_447_937)], ids=["hmr-scorer", "scorenet"]
)
def test_paper_size(preset, parameters):
    """Facts G.3: HMR-Scorer's head counts what reads the frozen encoder's tokens, ScoreNet's starts after its HRNet."""
    with torch.device("meta"):
        scorer = HMRScorer(load_config(CONFIGS / f"{preset}.yaml", [], ScorerConfig))
    own = [part for name, part in scorer.named_parameters() if not name.startswith("encoder.")]
    assert sum(part.numel() for part in own) == parameters


@pytest.mark.parametrize(("preset", "variant"), [("hmr-scorer-p", "pose6d"), ("hmr-scorer-2d", "2d")])
def test_the_ablations_differ_in_what_they_look_at_alone(preset, variant):
    whole = load_config(CONFIGS / "hmr-scorer.yaml", [], ScorerConfig)
    assert load_config(CONFIGS / f"{preset}.yaml", [], ScorerConfig) == whole.model_copy(update={"variant": variant})


VARIANTS = [
    ("uvd", True),
    ("uvd", False),
    ("2d", True),
    ("2d", False),
    ("pose6d", False),
    ("uvd_twist", False),
    ("uvd_twist", True),
    ("uvd_pose6d", False),
    ("uvd_pose6d", True),
]


def some_hypotheses(images: int = 2, count: int = 5, size: int = 64) -> Hypotheses:
    uvd = torch.rand(images, count, 29, 3) * torch.tensor([size, size, 1.0])
    return Hypotheses(uvd, torch.randn(images, count, 23, 2), roma.random_rotmat((images, count, 24)))


def only(hypotheses: Hypotheses, index: int) -> Hypotheses:
    return Hypotheses(*(part[:, index : index + 1] for part in hypotheses))


@pytest.mark.parametrize(("variant", "relative"), VARIANTS)
def test_variants_score_hypotheses_independently(images, variant, relative):
    config = ScorerConfig(
        encoder=ENCODER, crop_size=64, variant=variant, relative=relative, hidden_dims=(256, 32), **TRANSFORMER
    )
    scorer, hypotheses = HMRScorer(config).eval(), some_hypotheses()
    with torch.no_grad():
        features, raw = scorer(images, hypotheses)
        alone = scorer.score(features, only(hypotheses, 3), (64, 64))
    assert raw.shape == (2, 5)
    torch.testing.assert_close(raw[:, 3:4], alone, atol=1e-5, rtol=1e-4)
    assert raw.std() > 0


#: Which parts of a hypothesis each variant looks at: u and v, depth, twists, rotations of body joints, of the hands.
LOOKS_AT = {
    "uvd": "uv depth",
    "2d": "uv",
    "pose6d": "rotations",
    "uvd_twist": "uv depth twists",
    "uvd_pose6d": "uv depth rotations hands",
}


@pytest.mark.parametrize("variant", LOOKS_AT)
def test_a_variant_looks_at_its_own_parts_only(images, variant):
    scorer = HMRScorer(
        ScorerConfig(encoder=ENCODER, crop_size=64, variant=variant, hidden_dims=(256, 32), **TRANSFORMER)
    ).eval()
    one, other = some_hypotheses(), some_hypotheses()
    hands = one.rotations.clone()
    hands[:, :, 22:] = other.rotations[:, :, 22:]
    changed = {
        "uv": one._replace(uvd=torch.cat([other.uvd[..., :2], one.uvd[..., 2:]], -1)),
        "depth": one._replace(uvd=torch.cat([one.uvd[..., :2], other.uvd[..., 2:]], -1)),
        "twists": one._replace(twists=other.twists),
        "rotations": one._replace(rotations=other.rotations),
        "hands": one._replace(rotations=hands),
    }
    with torch.no_grad():
        raw = scorer(images, one)[1]
        seen = [part for part, hypotheses in changed.items() if not torch.equal(scorer(images, hypotheses)[1], raw)]
    assert " ".join(seen) == LOOKS_AT[variant]


@pytest.mark.parametrize(
    ("variant", "part"), [("pose6d", "rotations"), ("uvd_twist", "twists"), ("uvd_pose6d", "rotations")]
)
def test_hypotheses_without_what_is_looked_at_are_refused(images, variant, part):
    scorer = HMRScorer(
        ScorerConfig(encoder=ENCODER, crop_size=64, variant=variant, hidden_dims=(256, 32), **TRANSFORMER)
    )
    with pytest.raises(AdhmrError, match=f"'{variant}' looks at {part}"):
        scorer(images, Hypotheses(torch.rand(2, 3, 29, 3)))


def test_pixels_are_relative_to_the_crop(images, scorer_config):
    scorer = HMRScorer(scorer_config).eval()
    hypotheses = some_hypotheses()
    scaled = hypotheses._replace(uvd=hypotheses.uvd * torch.tensor([2.0, 4.0, 1.0]))
    with torch.no_grad():
        features = scorer.encoder(images)
        same, taller = scorer.score(features, hypotheses, (64, 64)), scorer.score(features, scaled, (256, 128))
        torch.testing.assert_close(same, taller)


VIT = {"neck": "vit", "depth": 2, "dim": 48, "heads": 3, "input_size": (64, 48), "task_tokens": 3, "drop_path": 0.0}


def tall_scorer(**options) -> HMRScorer:
    config = ScorerConfig(
        encoder={**VIT, **options.pop("encoder", {})},
        crop_size=128,
        crop_aspect=0.75,
        hidden_dims=(256, 32),
        **(TRANSFORMER | options),
    )
    return HMRScorer(config).eval()


@pytest.mark.parametrize("variant", ["uvd", "2d", "pose6d"])
def test_scorers_with_a_vision_transformer(variant):
    scorer, hypotheses = tall_scorer(variant=variant), some_hypotheses(size=96)
    with torch.no_grad():
        features, raw = scorer(torch.randint(0, 256, (2, 3, 128, 96), dtype=torch.uint8), hypotheses)
        alone = scorer.score(features, only(hypotheses, 1), (128, 96))
    assert features.memory.shape == (2, 12, 64) and features.local_map.shape == (2, 32, 8, 6)
    torch.testing.assert_close(raw[:, 1:2], alone, atol=1e-5, rtol=1e-4)
    assert raw.std() > 0


def test_a_square_crop_is_letterboxed_for_a_scorer_of_tall_crops():
    scorer, hypotheses = tall_scorer(), some_hypotheses(size=96)
    tall = torch.zeros(2, 3, 128, 96)
    tall[:, :, 16:112] = torch.randint(0, 256, (2, 3, 96, 96))
    square = tall[:, :, 16:112]
    moved = hypotheses._replace(uvd=hypotheses.uvd + torch.tensor([0.0, 16.0, 0.0]))
    with torch.no_grad():
        torch.testing.assert_close(scorer(square, hypotheses)[1], scorer(tall, moved)[1])


def test_letterbox_scales_crops_of_another_size():
    """A crop of 256 px becomes 384 px wide between bars of 64 px."""
    image = torch.zeros(1, 3, 256, 256)
    image[:, :, 100:120, 40:60] = 255.0
    uvd = torch.tensor([50.0, 110.0, 0.3]).expand(1, 1, 29, 3)
    tall, hypotheses = letterbox(image, Hypotheses(uvd), (512, 384))
    assert tall.shape == (1, 3, 512, 384) and tall[:, :, :64].abs().max() == 0 and tall[:, :, 448:].abs().max() == 0
    assert hypotheses.uvd[0, 0, 0].tolist() == pytest.approx([75.0, 165.0 + 64.0, 0.3])
    rows, columns = torch.meshgrid(torch.arange(512) + 0.5, torch.arange(384) + 0.5, indexing="ij")
    weight = tall[0, 0] / tall[0, 0].sum()
    centre = ((weight * columns).sum().item(), (weight * rows).sum().item())
    assert centre == pytest.approx((75.0, 229.0), abs=0.01)


def test_a_crop_of_another_shape_than_the_transformers_input_is_refused():
    with pytest.raises(ValueError, match="crop_aspect"):
        ScorerConfig(encoder=VIT, crop_size=128, **TRANSFORMER)
    with pytest.raises(ValueError, match="relative"):
        ScorerConfig(encoder=VIT, crop_size=128, crop_aspect=0.75, relative=True, **TRANSFORMER)


def test_relative_poses_need_joints():
    with pytest.raises(ValueError, match="relative"):
        ScorerConfig(encoder=ENCODER, crop_size=64, variant="pose6d", relative=True, **TRANSFORMER)


def test_hidden_width_must_fill_the_groups():
    with pytest.raises(ValueError, match="hidden_dims"):
        ScorerConfig(encoder=ENCODER, crop_size=64, hidden_dims=(100, 32), **TRANSFORMER)
