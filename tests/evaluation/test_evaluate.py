import json

import numpy as np
import pytest

from adhmr.body.body_model import BodyModel, open_body_path
from adhmr.config.data import CropConfig
from adhmr.config.evaluation import EvaluateStage, ReportStage
from adhmr.errors import AdhmrError
from adhmr.evaluation import evaluate, report
from adhmr.evaluation.quick import quick_errors
from adhmr.models.weights import load_model
from tests.evaluation.finished_evaluation import write_evaluation
from tests.tiny import CROP


def make_config(output, tiny_weights, studio_set, **changes) -> EvaluateStage:
    values = {
        "stage": "evaluate",
        "output": output,
        "data": studio_set,
        "limit": 7,
        "crop": CROP,
        "models": [{"name": "base", "weights": tiny_weights / "base.safetensors"}],
        "scorer": tiny_weights / "scorer.safetensors",
        "hypotheses": [2, 5],
        "scorer_noise": {"fixed": {"kind": "fixed"}},
        "images_per_batch": 4,
    }
    return EvaluateStage(**{**values, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_weights, studio_set):
    output = tmp_path_factory.mktemp("evaluate")
    evaluate.run_stage(make_config(output, tiny_weights, studio_set))
    return output


def arrays(folder) -> dict[str, np.ndarray]:
    with np.load(folder / "models" / "base.npz") as stored:
        return {name: stored[name] for name in stored.files}


def test_what_is_written(finished):
    made, figures = arrays(finished), json.loads((finished / "figures.json").read_text())
    assert made["errors"].shape == (7, 5, 4) and made["mean_errors"].shape == (7, 4)
    assert np.isfinite(made["errors"]).all() and (made["errors"] > 0).all()
    assert (made["errors"][..., 2] < made["errors"][..., 0]).all()  # alignment only takes away
    assert figures["samples"] == figures["scorer"]["fixed"]["samples"] == 7
    assert set(figures["models"]["base"]["rankings"]) == {"mode", "mean", "joints2d", "joints3d", "scorer"}
    assert set(figures["scorer"]["fixed"]["pve"]) == {"mean_mm", "plcc", "srcc"}


def test_a_model_that_was_evaluated_is_not_evaluated_again(tmp_path, tiny_weights, studio_set, monkeypatch):
    config = make_config(tmp_path, tiny_weights, studio_set, limit=2, scorer_noise={})
    runs = []
    real = evaluate.Evaluation.model
    monkeypatch.setattr(evaluate.Evaluation, "model", lambda *a: (runs.append(1), real(*a))[1])
    evaluate.run_stage(config)
    first = arrays(tmp_path)
    copied = tmp_path / "body.npz"
    copied.write_bytes(open_body_path().read_bytes())
    evaluate.run_stage(make_config(tmp_path, tiny_weights, studio_set, limit=2, scorer_noise={}, body=copied))
    assert len(runs) == 1  # the same body elsewhere
    with np.load(copied) as stored:
        np.savez(copied, **{**stored, "v_template": 1.1 * stored["v_template"]})
    # What changes the errors or the rankings makes them anew.
    changes = [{"crop": {"size": 64, "padding": 1.6}}, {"scorer": None}, {"seed": 5}, {"precision": "bf16"}]
    changes += [{"body": copied}, {"sampler": {"steps": 2}}, {"ik": "adaptive"}, {"protocol": {"root": "estimated"}}]
    for number, change in enumerate(changes, 2):
        evaluate.run_stage(make_config(tmp_path, tiny_weights, studio_set, limit=2, scorer_noise={}, **change))
        assert len(runs) == number, change
    evaluate.run_stage(config)
    for name, value in arrays(tmp_path).items():
        np.testing.assert_array_equal(value, first[name])


def test_more_hypotheses_keep_the_first_ones_and_batches_do_not_matter(tmp_path, finished, tiny_weights, studio_set):
    config = make_config(tmp_path, tiny_weights, studio_set, hypotheses=[3], images_per_batch=3, scorer_noise={})
    evaluate.run_stage(config)
    np.testing.assert_allclose(arrays(tmp_path)["errors"], arrays(finished)["errors"][:, :3], atol=0.05)


def test_quick_errors_agree_with_the_evaluation(finished, tiny_weights, studio_set):
    model = load_model(tiny_weights / "base.safetensors", "base")
    quick = quick_errors(model, studio_set, CropConfig(**CROP), 7, seed=0, body=BodyModel())
    errors = arrays(finished)["errors"]
    for index, name in enumerate(("pve", "mpjpe", "pa_pve", "pa_mpjpe")):
        assert abs(quick[f"{name}_zero"] - errors[:, 0, index].mean()) < 0.05
        assert quick[f"{name}_min10"] <= errors[..., index].min(1).mean() + 0.05


def test_another_crop_size_is_refused(tmp_path, tiny_weights, studio_set):
    with pytest.raises(AdhmrError, match=r"made for crops of 64 px, but crop.size is 96"):
        evaluate.run_stage(make_config(tmp_path, tiny_weights, studio_set, crop={"size": 96}))


def test_the_report_is_one_file_with_tables_pictures_and_curves(tmp_path, finished, tiny_weights, studio_set):
    run = tmp_path / "training"
    run.mkdir()
    lines = [{"step": step, "loss": 1.0 / step, "lr": 0.1, "evaluation/x": 3.0} for step in (1, 2, 3)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    values = {
        "stage": "report",
        "output": tmp_path,
        "title": "A <small> test",
        "evaluation": finished,
        "others": [write_evaluation(tmp_path / "second")],
        "runs": [run],
        "data": studio_set,
        "crop": CROP,
        "pictures": 2,
        "extremes": 1,
        "compared": [{"name": "base", "weights": tiny_weights / "base.safetensors"}],
    }
    report.run_stage(ReportStage(**values))
    page = (tmp_path / "report.html").read_text()
    assert "A &lt;small&gt; test" in page and "PA-MPJPE (mm)" in page and "joints2d" in page
    assert page.count("data:image/jpeg") == 2  # random and worst; no other model that could gain or lose
    assert "<h2>second: errors</h2>" in page
    # Errors against hypotheses twice, changes of the second evaluation, curves of the training.
    assert page.count("data:image/png") == 4
    listed = json.loads((tmp_path / "figures.json").read_text())["pictures"]
    assert [one["file"] for one in listed] == ["random.jpg", "worst.jpg"]
    assert all((tmp_path / one["file"]).stat().st_size > 10_000 for one in listed)
    assert "http://" not in page and "https://" not in page  # opens without a network
    with pytest.raises(AdhmrError, match="holds no model or group 'bass'"):
        report.run_stage(ReportStage(**{**values, "baseline": "bass"}))
    (run / "metrics.jsonl").unlink()
    with pytest.raises(AdhmrError, match=r"has no metrics.jsonl"):
        report.run_stage(ReportStage(**values))
