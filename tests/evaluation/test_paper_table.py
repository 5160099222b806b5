"""The paper's Table 2, its claim and the table with a line a method, for errors whose changes are known."""

import pytest

from adhmr.evaluation.ablation_table import ablation_table
from adhmr.evaluation.error_plots import counts_of, minima
from adhmr.evaluation.evaluation_section import evaluation_parts
from adhmr.evaluation.paired import Difference
from adhmr.evaluation.paper_table import claim_table, paper_table, verdict
from adhmr.evaluation.sections import Picture
from adhmr.evaluation.tables import EvaluationResult
from tests.evaluation.finished_evaluation import write_evaluation


@pytest.fixture
def result(tmp_path):
    return EvaluationResult(write_evaluation(tmp_path / "evaluate"))


def test_a_line_is_a_method_and_a_prediction(result):
    table = paper_table(result, "base")
    assert table.rows[0] == ["method", "prediction", "PVE (mm)", "MPJPE (mm)", "PA-PVE (mm)", "PA-MPJPE (mm)"]
    predictions = ["best of 2", "best of 8", "zero-noise", "mean", "random"]  # without a scorer no pick
    assert [row[1] for row in table.rows[1:]] == 3 * predictions
    assert table.rows[1][2] == "134.5"  # 80 + 40 and on average 14.5 of the images
    assert table.rows[6][:3] == ["ours", "best of 2", "104.5 ± 1.4 (-30.00 ± 0.00)"]
    record = table.records[5]
    assert (record["method"], record["seeds"], record["pve_change"]) == ("ours", 2, -30.0)
    assert record["pve_seed_spread"] == pytest.approx(2**0.5) and table.records[0]["pve_seed_spread"] is None


def test_the_claim_compares_few_hypotheses_with_many_of_the_baseline(result):
    table = claim_table(result, "base")
    assert table.title == "does the best of 2 beat base's best of 8?"
    # The best of 2 is 40 mm above the best of 8: 30 mm less of error are not enough.
    assert [row[:2] for row in table.rows[1:]] == [["ours", "+10.00 ± 0.00: no"], ["worse", "+42.00 ± 0.00: no"]]
    result.hypotheses = [8]
    assert claim_table(result, "base") is None  # nothing to compare


@pytest.mark.parametrize(("mean", "error", "found"), [(-3, 1, "yes"), (3, 1, "no"), (-1.9, 1, "open"), (0, 0, "open")])
def test_two_standard_errors_decide(mean, error, found):
    assert verdict(Difference(mean, error, 0.0, 1)) == found


def test_ablations_have_a_line_a_method_as_configured(result):
    table = ablation_table(result, "base", "pa_mpjpe")
    assert [row[:2] for row in table.rows] == [["method", "seeds"], ["base", "1"], ["ours", "2"], ["worse", "1"]]
    assert table.rows[2][2] == "104.5 (-30.0 ± 0.0)" and table.title.startswith("PA-MPJPE")


def test_curves_over_hypotheses_end_at_the_tables_minima(result):
    counts = counts_of(result)
    assert counts[0] == 1 and {2, 8} <= set(counts)
    curve = minima(result, "ours", "pve", counts)
    assert curve.shape == (2, 30, len(counts))
    columns = result.columns("ours", "pve")
    for count in (2, 8):
        assert (curve[..., counts.index(count)] == columns[f"min {count}"]).all()
    assert (curve[..., 0] == columns["zero"]).all()


def test_a_report_of_one_model_compares_nothing(result):
    result.groups = {"base": ["base"]}
    names = [part.name for part in evaluation_parts(result, "base", "pve")]
    assert "claim" not in names and "changes" not in names and "ablation-pve" not in names
    assert "methods" in names and "errors-against-hypotheses" in names


def test_plots_are_pictures(result):
    drawn = [part.draw() for part in evaluation_parts(result, "base", "pve") if isinstance(part, Picture)]
    assert len(drawn) == 2 and all(picture.startswith(b"\x89PNG") and len(picture) > 10_000 for picture in drawn)
