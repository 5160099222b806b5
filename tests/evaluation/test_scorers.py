import json
import shutil

import numpy as np
import pytest
import torch

from adhmr.body.hypotheses import Hypotheses
from adhmr.config.data import CropConfig
from adhmr.config.evaluation import ScorersStage
from adhmr.config.model import ScorerConfig
from adhmr.data.stream import iterate_set
from adhmr.data.transforms import LabelledCrop
from adhmr.errors import AdhmrError
from adhmr.evaluation import scorers
from adhmr.evaluation.scorer_panel import ScorerPanel
from adhmr.evaluation.scorers_result import ScorersResult
from adhmr.evaluation.scorers_section import section
from adhmr.evaluation.sections import Picture, Table
from adhmr.models.scorer import HMRScorer
from adhmr.models.weights import load_model, save_weights
from adhmr.preference.scoring import Scoring
from tests.tiny import CROP, SCORER

FREE = ["mode", "mean", "joints2d", "joints3d"]
NOISE = {"small": {"kind": "fixed"}, "mixed": {"kind": "mixed", "pose": 0.5, "root": 0.2}}


def make_config(output, tiny_weights, studio_set, **changes) -> ScorersStage:
    weights = tiny_weights / "scorer.safetensors"
    values = {
        "stage": "scorers",
        "output": output,
        "scorers": [
            {"name": "first", "weights": weights},
            {"name": "seed-0", "weights": weights, "group": "seeds"},
            {"name": "seed-1", "weights": weights, "group": "seeds"},
        ],
        "sets": [{"name": "studio", "path": studio_set, "limit": 7, "padding": CROP["padding"]}],
        "noise": NOISE,
        "disturbed": 2,
        "base": tiny_weights / "base.safetensors",
        "crop": CROP,
        "hypotheses": 6,
        "pairs": 2,
        "images_per_batch": 4,
    }
    return ScorersStage(**{**values, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_weights, studio_set):
    output = tmp_path_factory.mktemp("scorers")
    scorers.run_stage(make_config(output, tiny_weights, studio_set))
    return output


def arrays(folder) -> dict[str, np.ndarray]:
    with np.load(folder / "sets" / "studio.npz") as stored:
        return {name: stored[name] for name in stored.files}


def test_what_is_written(finished):
    made = arrays(finished)
    assert made["disturbed_errors"].shape == (7, 2, 2, 4) and made["disturbed_value_first"].shape == (7, 2, 2)
    assert made["errors"].shape == (7, 6, 4) and made["mean_errors"].shape == (7, 4)
    for method in [*FREE, "first", "seed-1"]:
        assert made[f"value_{method}"].shape == (7, 6) and made[f"top_errors_{method}"].shape == (7, 4)
    np.testing.assert_array_equal(made["value_first"], made["value_seed-0"])
    figures = json.loads((finished / "figures.json").read_text())
    assert figures["sets"]["studio"]["samples"] == 7
    names = ["correlations-studio-small", "correlations-studio-mixed", "rankings-studio", "references-studio"]
    assert list(figures["tables"]) == [*names, "calibration"]
    ranked = {record["ranking"]: record for record in figures["tables"]["rankings-studio"]}
    assert list(ranked) == [*FREE, "first", "seeds"] and ranked["seeds"]["seeds"] == 2
    assert ranked["mode"]["pick_against_zero"] == 0  # it picks the zero-noise hypothesis by definition


def test_scores_are_those_of_generation_and_errors_those_of_evaluate(finished, tiny_weights, studio_set, tmp_path):
    from adhmr.evaluation import evaluate
    from tests.evaluation.test_evaluate import make_config as evaluate_config

    evaluate.run_stage(evaluate_config(tmp_path, tiny_weights, studio_set, hypotheses=[6], scorer_noise={}))
    with np.load(tmp_path / "models" / "base.npz") as stored:
        np.testing.assert_allclose(arrays(finished)["errors"], stored["errors"], atol=0.05)
        np.testing.assert_allclose(arrays(finished)["mean_errors"], stored["mean_errors"], atol=0.05)
        for method in FREE:
            np.testing.assert_allclose(arrays(finished)[f"value_{method}"], stored[f"value_{method}"], atol=1e-3)
        np.testing.assert_allclose(arrays(finished)["value_first"], stored["value_scorer"], atol=1e-4)


def test_a_set_that_was_measured_is_not_measured_again(finished, tmp_path, tiny_weights, studio_set, monkeypatch):
    shutil.copytree(finished, tmp_path / "run")
    runs = []
    real = scorers.ScorersEvaluation.arrays
    monkeypatch.setattr(scorers.ScorersEvaluation, "arrays", lambda *a: (runs.append(1), real(*a))[1])
    scorers.run_stage(make_config(tmp_path / "run", tiny_weights, studio_set, pairs=3))
    assert not runs  # how pairs are counted changes the tables alone
    scorers.run_stage(make_config(tmp_path / "run", tiny_weights, studio_set, disturbed=1))
    assert len(runs) == 1


def test_another_crop_changes_scores_and_not_the_disturbance(finished, tmp_path, tiny_weights, studio_set):
    weights = tiny_weights / "scorer.safetensors"
    wide = tmp_path / "wide.safetensors"
    model = load_model(weights, "scorer")
    save_weights(wide, model, "scorer", model.config.model_dump(mode="json"), {"crop_padding": 1.6})
    near = tmp_path / "near.safetensors"
    save_weights(near, model, "scorer", model.config.model_dump(mode="json"), {"crop_padding": CROP["padding"]})
    changes = {
        "scorers": [{"name": "first", "weights": near}, {"name": "wide", "weights": wide}],
        "sets": [{"name": "studio", "path": studio_set, "limit": 7}],
    }
    scorers.run_stage(make_config(tmp_path / "run", tiny_weights, studio_set, **changes))
    made, before = arrays(tmp_path / "run"), arrays(finished)
    np.testing.assert_allclose(made["disturbed_errors"], before["disturbed_errors"], atol=1e-3)
    np.testing.assert_allclose(made["disturbed_value_first"], before["disturbed_value_first"], atol=1e-4)
    assert np.abs(made["disturbed_value_wide"] - made["disturbed_value_first"]).max() > 1e-3
    np.testing.assert_array_equal(made["value_wide"], made["value_first"])  # generation's crops: the base model's


def test_a_report_is_made_of_the_files_alone(finished):
    text, parts = section(finished, "pve")
    assert "studio (7 images)" in text[0]
    tables = [part for part in parts if isinstance(part, Table)]
    assert all(len({len(row) for row in table.rows}) == 1 for table in tables)
    assert all(record.keys() == table.records[0].keys() for table in tables for record in table.records)
    pictures = [part for part in parts if isinstance(part, Picture)]
    assert [picture.name for picture in pictures] == ["rankings-studio", "order", "scores-studio"]
    assert all(picture.draw().startswith(b"\x89PNG") for picture in pictures)


def test_seeds_that_are_equal_have_no_spread_and_change_nothing(finished):
    result = ScorersResult.read(finished)
    found = result.correlations("studio", "mixed", "seeds")
    assert found.shape == (2, 4, 2) and np.ptp(found, 0).max() == 0
    assert result.correlation_errors("studio", "mixed", "seeds", "first").max() < 1e-9
    change = result.change("studio", "seeds", "within", "first")
    assert change.mean == change.standard_error == change.seed_spread == 0 and change.seeds == 2


def test_without_a_base_model_only_disturbed_truths_are_scored(tmp_path, tiny_weights, studio_set):
    scorers.run_stage(make_config(tmp_path, tiny_weights, studio_set, base=None, crop=None))
    assert "errors" not in arrays(tmp_path)
    assert [part.name for part in section(tmp_path, "pve")[1]] == [
        *("correlations-studio-small", "correlations-studio-mixed", "calibration", "scores-studio")
    ]


def test_encoders_that_are_the_same_run_once(tiny_weights, studio_set):
    batch = next(iterate_set(studio_set, LabelledCrop(CropConfig(**CROP)), batch=3))
    base = load_model(tiny_weights / "base.safetensors", "base")
    panel = ScorerPanel(base, "fp32", 3)
    torch.manual_seed(1)
    other = HMRScorer(ScorerConfig(**SCORER)).eval()
    for name in ("first", "second"):
        panel.add(name, load_model(tiny_weights / "scorer.safetensors", "scorer"))
    panel.add("other", other)
    encoder = panel.scorers["first"].encoder
    assert panel.scorers["second"].encoder is encoder is not other.encoder
    calls = []
    for module in (encoder, other.encoder):
        module.register_forward_hook(lambda *a: calls.append(1))
    look = panel.look(batch["image"])
    hypotheses = Hypotheses(batch["uvd"][:, None].repeat(1, 4, 1, 1))
    for _ in range(2):
        scores = look.scores(panel.scorers, hypotheses)
    assert len(calls) == 2 and not torch.equal(scores["first"], scores["other"])
    expected = Scoring(load_model(tiny_weights / "scorer.safetensors", "scorer"), base)
    torch.testing.assert_close(scores["second"], expected(batch["image"], look.base_features(), hypotheses))


def test_a_padding_that_is_not_known_is_asked_for(tmp_path, tiny_weights, studio_set):
    config = make_config(tmp_path, tiny_weights, studio_set, sets=[{"name": "studio", "path": studio_set}])
    with pytest.raises(AdhmrError, match=r"does not say how large its crops were; set sets.padding"):
        scorers.run_stage(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise": {}, "base": None, "crop": None}, "nothing to measure on"),
        ({"crop": None}, "base and crop come together"),
        ({"pairs": 4}, "hypotheses is 6, pairs 4"),
        ({"scorers": [{"name": "a", "weights": "x"}, {"name": "a", "weights": "x"}]}, "two are called a"),
        ({"scorers": [{"name": "a", "weights": "x", "group": "mode"}]}, "'mode' is a ranking"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path, tiny_weights, studio_set, changes, message):
    with pytest.raises(ValueError, match=message):
        make_config(tmp_path, tiny_weights, studio_set, **changes)
