import json

import numpy as np
import pytest

from adhmr.errors import AdhmrError
from adhmr.evaluation.evaluate import ranking_figures
from adhmr.evaluation.tables import (
    Difference,
    EvaluationResult,
    error_table,
    image_columns,
    print_tables,
    ranking_table,
    scorer_table,
)

IMAGES, HYPOTHESES = 30, 8


def arrays_of(seed: int, shift: float) -> dict[str, np.ndarray]:
    """Errors of images that are hard or easy for every model, plus the model's own shift and noise."""
    hard = np.random.default_rng(0).uniform(50, 150, (IMAGES, 1, 1))
    rng = np.random.default_rng(seed)
    errors = hard + shift + rng.normal(0, 3, (IMAGES, HYPOTHESES, 4))
    return {
        "errors": errors,
        "mean_errors": errors.mean(1) - 1,
        "value_scorer": -errors[..., 0] + rng.normal(0, 1, (IMAGES, HYPOTHESES)),
        "value_mode": rng.normal(size=(IMAGES, HYPOTHESES)),
    }


@pytest.fixture
def folder(tmp_path):
    models = {"base": (None, 1, 0.0), "ours-0": ("ours", 2, -2.0), "ours-1": ("ours", 3, -4.0)}
    (tmp_path / "models").mkdir()
    figures = {"protocol": "smpl24", "hypotheses": [2, 8], "samples": IMAGES, "models": {}}
    for name, (group, seed, shift) in models.items():
        arrays = arrays_of(seed, shift)
        np.savez(tmp_path / "models" / f"{name}.npz", identity="x", **arrays)
        figures["models"][name] = {"group": group, "rankings": ranking_figures(arrays)}
    entry = {metric: {"mean_mm": 60.0, "plcc": 0.51, "srcc": 0.52} for metric in ("pve", "mpjpe", "pa_pve", "pa_mpjpe")}
    figures["scorer"] = {"mixed": {"samples": IMAGES, **entry}}
    (tmp_path / "figures.json").write_text(json.dumps(figures))
    return tmp_path


def test_columns_of_one_model():
    arrays = arrays_of(1, 0.0)
    columns = image_columns(arrays, "mpjpe", [2, 8])
    assert list(columns) == ["min 2", "min 8", "zero", "mean", "random", "scorer's"]
    error = arrays["errors"][..., 1]
    chosen = arrays["value_scorer"].argmax(1)
    for n in range(IMAGES):
        assert columns["min 2"][n] == min(error[n, :2]) and columns["min 8"][n] == min(error[n])
        assert columns["zero"][n] == error[n, 0] and columns["mean"][n] == arrays["mean_errors"][n, 1]
        assert columns["scorer's"][n] == error[n, chosen[n]]
        np.testing.assert_allclose(columns["random"][n], error[n, 1:].mean())
    del arrays["value_scorer"]
    assert "scorer's" not in image_columns(arrays, "mpjpe", [2, 8])


def test_the_difference_is_paired_over_images_and_averaged_over_seeds(folder):
    result = EvaluationResult(folder)
    found = result.difference("ours", "base", "pve", "zero")
    zero = {name: result.arrays[name]["errors"][:, 0, 0] for name in ("base", "ours-0", "ours-1")}
    change = (zero["ours-0"] + zero["ours-1"]) / 2 - zero["base"]
    assert found.seeds == 2 and -5 < found.mean < -1
    np.testing.assert_allclose(found.mean, change.mean())
    np.testing.assert_allclose(found.standard_error, change.std(ddof=1) / IMAGES**0.5)
    means = [(zero[name] - zero["base"]).mean() for name in ("ours-0", "ours-1")]
    np.testing.assert_allclose(found.seed_spread, abs(means[0] - means[1]) / 2**0.5)
    # Images that are hard for both would drown it if the images were not paired.
    unpaired = (zero["ours-0"].var() + zero["base"].var()) ** 0.5 / IMAGES**0.5
    assert found.standard_error < unpaired / 5
    assert found.mean < -2 * found.standard_error


def test_a_model_is_no_different_from_itself(folder):
    same = EvaluationResult(folder).difference("base", "base", "pve", "min 8")
    assert same == Difference(mean=0.0, standard_error=0.0, seed_spread=0.0, seeds=1)


def test_the_table_has_errors_and_changes(folder):
    result = EvaluationResult(folder)
    rows = error_table(result, "pve", "base")
    assert [row[0] for row in rows] == ["PVE (mm)", "base", "ours", "  change"]
    assert len({len(row) for row in rows}) == 1
    zero = rows[0].index("zero")
    found = result.difference("ours", "base", "pve", "zero")
    assert rows[3][zero] == f"{found.mean:+.2f} ± {found.standard_error:.2f}"
    assert rows[1][zero] == f"{result.arrays['base']['errors'][:, 0, 0].mean():.1f}" and "±" in rows[2][zero]


def test_rankings_are_told_apart_without_the_zero_noise_hypothesis():
    arrays = arrays_of(1, 0.0)
    arrays["value_mode"][:, 0] = 1e6  # closest to itself by definition: must not count
    with_zero = ranking_figures(arrays)["mode"]
    arrays["value_mode"][:, 0] = -1e6
    without = ranking_figures(arrays)["mode"]
    for name in ("within_image_srcc", "within_image_positive", "picked_pve"):
        assert with_zero[name] == without[name]
    figures = ranking_figures(arrays)
    assert figures["scorer"]["within_image_srcc"] > 0.8 > abs(figures["mode"]["within_image_srcc"])
    assert figures["scorer"]["picked_pve"] < figures["mode"]["picked_pve"]


def test_all_tables_are_printed(folder, capsys):
    print_tables(folder)
    printed = capsys.readouterr().out
    for text in ("PVE (mm)", "PA-MPJPE (mm)", "rankings of base's own", "scorer on disturbed", "0.51", "ours"):
        assert text in printed
    result = EvaluationResult(folder)
    assert len(ranking_table(result, "base")) == 3 and len(scorer_table(result)) == 2


def test_a_folder_without_an_evaluation_is_refused(tmp_path):
    with pytest.raises(AdhmrError, match="run the evaluate stage first"):
        EvaluationResult(tmp_path)


def test_an_unknown_group_is_named(folder):
    with pytest.raises(AdhmrError, match="holds no model or group 'bass'; it has base, ours"):
        EvaluationResult(folder).columns("bass", "pve")
