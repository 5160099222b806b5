"""Precision, recall and curves where the truth is known, against counting by hand; the whole stage on such a set."""

import json

import numpy as np
import pytest

from adhmr.cleaning.clean import run_stage, scores_of
from adhmr.cleaning.known_mistakes import Truth, curves, judged, read_truth, vertex_errors
from adhmr.config.stages import CleanStage
from adhmr.data.shard_reader import ShardReader
from adhmr.data.synthetic.build import synthesise
from adhmr.errors import AdhmrError
from tests.tiny import CROP

RAW = np.float32([0.9, 0.1, np.nan, -0.5, 0.7, -0.2, 0.3])
KINDS = np.uint8([0, 3, 3, 3, 1, 0, 2])
ERRORS = np.float32([0.02, 0.5, np.nan, 0.4, 0.1, 0.03, 0.08])


@pytest.fixture(scope="module")
def wild_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wild") / "wild"
    synthesise("synth-wild", folder, 10, seed=4, processes=1, image_size=64, samples_per_shard=5)
    return folder


def test_figures_are_those_counted_by_hand():
    kept = RAW >= 0.2  # drops rows 1, 3, 5; row 2 has no score and does not count
    figures = judged(RAW, kept, Truth(ERRORS, KINDS))
    assert (figures["labels"], figures["dropped"]) == (6, 3)
    assert figures["gross"] == {"labels": 2, "dropped": 2, "precision": pytest.approx(2 / 3), "recall": 1.0}
    assert figures["any mistake"]["precision"] == pytest.approx(2 / 3) and figures["any mistake"]["recall"] == 0.5
    assert figures["kinds"]["mild"]["recall"] == 0.5 and figures["kinds"]["depth flip"]["recall"] == 0
    assert figures["gross_auc"] == 7 / 8  # of eight pairs of a gross mistake and another label, one is the wrong way
    assert figures["pve_kept"] == pytest.approx((20 + 100 + 80) / 3)
    assert figures["pve_kept_at_best"] == pytest.approx((20 + 30 + 80) / 3, rel=1e-5)
    assert 0 < figures["srcc"] < 1 and 0 < figures["plcc"] < 1
    json.dumps(figures)


def test_nothing_to_divide_by_is_null():
    figures = judged(RAW, ~np.isnan(RAW), Truth(ERRORS, np.zeros(7, np.uint8)))
    assert figures["gross"] == {"labels": 0, "dropped": 0, "precision": None, "recall": None}
    assert figures["gross_auc"] is None and figures["pve_dropped"] is None


def test_curves_agree_with_the_figures_of_each_limit():
    truth, score = Truth(ERRORS, KINDS), scores_of(RAW)
    found = curves(RAW, score, truth)
    for name, values in (("percentile", RAW), ("threshold", score)):
        for at in (0, 20, 60, 99):
            limit = found[f"{name}_limit"][at]
            if name == "percentile":
                limit = np.nanpercentile(RAW, limit)
            figures = judged(RAW, values >= limit, truth)
            for ours, key in (("precision", "precision"), ("recall", "recall")):
                expected = figures["gross"][key]
                np.testing.assert_allclose(found[f"{name}_{ours}"][at], np.nan if expected is None else expected)
            np.testing.assert_allclose(
                found[f"{name}_recall_of_kinds"][1, at], figures["kinds"]["left-right swap"]["recall"]
            )
            kept = figures["pve_kept"]
            np.testing.assert_allclose(found[f"{name}_pve_kept"][at], np.nan if kept is None else kept, rtol=1e-5)


def test_the_error_of_a_label_is_that_of_its_mesh(body, wild_set):
    reader, truth = ShardReader(wild_set), np.load(wild_set / "truth.npy")
    assert vertex_errors(body, truth, truth).max() < 1e-6
    read = read_truth(reader, body, np.zeros(10, np.float32))
    assert (read.errors > 0.001).all() and read.kinds.tolist() == np.load(wild_set / "truth_kind.npy").tolist()
    assert np.isnan(read_truth(reader, body, np.full(10, np.nan, np.float32)).errors).all()
    with pytest.raises(AdhmrError, match=r"truth.npy: has 10 rows, its data set 9"):
        read_truth(reader, body, np.zeros(9, np.float32))


def test_the_stage_judges_sets_whose_truth_is_known(tmp_path, wild_set, studio_set, tiny_weights, capsys):
    config = CleanStage(
        stage="clean",
        output=tmp_path / "clean",
        scorer=tiny_weights / "scorer.safetensors",
        sets=[wild_set, studio_set],
        padding=CROP["padding"],
        percentile=30,
        pictures=3,
    )
    run_stage(config)
    wild, studio = json.loads((config.output / "figures.json").read_text())["sets"]
    assert wild["truth"]["dropped"] == 3 and "truth" not in studio
    with np.load(config.output / "wild" / "mistakes.npz") as stored:
        assert stored["pve"].shape == stored["kind"].shape == (10,) and stored["threshold_precision"].shape == (101,)
    assert (config.output / "wild" / "mistakes.png").exists() and not (
        config.output / "studio" / "mistakes.png"
    ).exists()
    assert "gross failure" in capsys.readouterr().out
