"""Stage "regressors": what it writes, what it does not do twice, paired changes over seeds, what it refuses."""

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from adhmr.body.body_model import BodyModel
from adhmr.config.data import CropConfig
from adhmr.config.model import RegressorConfig
from adhmr.config.regressor import RegressorsStage
from adhmr.errors import AdhmrError
from adhmr.evaluation import regressors
from adhmr.evaluation.regressor_table import RegressorsResult, regressor_table
from adhmr.models.regressor import Regressor
from adhmr.models.weights import load_model, save_weights
from tests.tiny import CROP, REGRESSOR


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Three regressors, 0.safetensors to 2.safetensors, each with other random outputs."""
    folder = tmp_path_factory.mktemp("regressors")
    config = RegressorConfig(**REGRESSOR)
    for seed in range(3):
        torch.manual_seed(seed)
        model = Regressor(config)
        with torch.no_grad():
            model.head.turns += 0.02 * torch.randn_like(model.head.turns)
        about = {"crop_padding": CROP["padding"]}
        save_weights(folder / f"{seed}.safetensors", model, "regressor", config.model_dump(mode="json"), about)
    return folder


def make_config(output, weights, studio_set, **changes) -> RegressorsStage:
    values = {
        "stage": "regressors",
        "output": output,
        "models": [
            {"name": "all", "weights": weights / "0.safetensors"},
            {"name": "cleaned-0", "weights": weights / "1.safetensors", "group": "cleaned"},
            {"name": "cleaned-1", "weights": weights / "2.safetensors", "group": "cleaned"},
        ],
        "sets": [{"path": studio_set, "name": "one"}, {"path": studio_set, "name": "two", "limit": 5}],
        "images_per_batch": 4,
    }
    return RegressorsStage(**{**values, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory, weights, studio_set):
    output = tmp_path_factory.mktemp("regressors-stage")
    regressors.run_stage(make_config(output, weights, studio_set))
    return output


def errors(folder, title, name) -> np.ndarray:
    with np.load(folder / "sets" / title / f"{name}.npz") as stored:
        return stored["errors"]


def test_what_is_written(finished):
    figures = json.loads((finished / "figures.json").read_text())
    first = errors(finished, "one", "all")
    assert first.shape == (10, 4) and errors(finished, "two", "all").shape == (5, 4)
    assert np.isfinite(first).all() and (first[:, 2] < first[:, 0]).all()  # alignment only takes away
    np.testing.assert_allclose(errors(finished, "two", "all"), first[:5], atol=0.05)
    assert figures["sets"]["two"]["samples"] == 5 and figures["sets"]["one"]["protocol"] == "smpl24"
    assert figures["models"]["cleaned-1"]["group"] == "cleaned"
    assert figures["sets"]["one"]["mean_mm"]["all"]["pve"] == pytest.approx(first[:, 0].mean(), rel=1e-5)


def test_validation_has_the_same_errors(finished, weights, studio_set):
    model = load_model(weights / "0.safetensors", "regressor")
    made = regressors.validation_errors(model, BodyModel(), studio_set, CropConfig(**CROP), limit=5)
    assert made["pa_mpjpe"] == pytest.approx(errors(finished, "two", "all")[:, 3].mean(), abs=0.05)


def test_the_table_has_seeds_and_paired_changes(finished):
    result = RegressorsResult(finished)
    assert result.groups == {"all": ["all"], "cleaned": ["cleaned-0", "cleaned-1"]}
    rows = regressor_table(result)
    assert rows[0] == ["set", "method", "PVE (mm)", "MPJPE (mm)", "PA-PVE (mm)", "PA-MPJPE (mm)"]
    assert [row[:2] for row in rows[1:4]] == [["one", "all"], ["one", "cleaned"], ["", "  change"]]
    assert [row[:2] for row in rows[4:6]] == [["two", "all"], ["two", "cleaned"]] and len(rows) == 7
    baseline, seeds = errors(finished, "one", "all"), [errors(finished, "one", f"cleaned-{n}") for n in (0, 1)]
    change = (np.mean(seeds, 0) - baseline)[:, 0]
    assert rows[3][2] == f"{change.mean():+.2f} ± {change.std(ddof=1) / np.sqrt(10):.2f}"
    spread = np.std([seed[:, 0].mean() for seed in seeds], ddof=1)
    assert rows[2][2] == f"{np.mean(seeds, 0)[:, 0].mean():.1f} ± {spread:.1f}"
    with pytest.raises(AdhmrError, match="no regressor or group 'cleand'; it has all, cleaned"):
        regressor_table(result, "cleand")


def test_only_what_changed_is_evaluated_again(tmp_path, weights, studio_set, monkeypatch):
    runs = []
    real = regressors.errors_on
    monkeypatch.setattr(regressors, "errors_on", lambda *a: (runs.append(1), real(*a))[1])
    few = {"models": [{"name": "all", "weights": weights / "0.safetensors"}]}
    regressors.run_stage(make_config(tmp_path, weights, studio_set, **few))
    assert len(runs) == 2
    regressors.run_stage(make_config(tmp_path, weights, studio_set, **few, images_per_batch=3))
    assert len(runs) == 2
    one, two = {"path": studio_set, "name": "one", "padding": 1.6}, {"path": studio_set, "name": "two", "limit": 5}
    regressors.run_stage(make_config(tmp_path, weights, studio_set, **few, sets=[one, two]))
    assert len(runs) == 3


def test_what_is_refused(tmp_path, weights, tiny_weights, studio_set):
    twice = [{"name": "all", "weights": weights / "0.safetensors"}] * 2
    with pytest.raises(ValidationError, match="two of models are called all"):
        make_config(tmp_path, weights, studio_set, models=twice)
    with pytest.raises(ValidationError, match=r"regressor must name J_regressor_h36m.npy"):
        make_config(tmp_path, weights, studio_set, sets=[{"path": studio_set, "protocol": {"name": "3dpw"}}])
    with pytest.raises(ValidationError, match="official candidates are chosen by a scorer"):
        official = {"path": studio_set, "protocol": {"name": "3dpw-official"}}
        make_config(tmp_path, weights, studio_set, sets=[official], regressor="J.npy")
    base = [{"name": "base", "weights": tiny_weights / "base.safetensors"}]
    with pytest.raises(AdhmrError, match="holds a model of kind 'base', expected 'regressor'"):
        regressors.run_stage(make_config(tmp_path, weights, studio_set, models=base))
    with pytest.raises(AdhmrError, match="run the regressors stage first"):
        RegressorsResult(tmp_path / "nothing")
