"""What is said and drawn of preference folders, and what the guards of pairing leave of them."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from adhmr import cli
from adhmr.data.shard_reader import ShardReader
from adhmr.errors import AdhmrError
from adhmr.preference.generate import run_stage
from adhmr.preference.inspect import inspect_preferences
from adhmr.preference.inspect_text import describe
from adhmr.preference.pair_sheet import pair_sheet
from adhmr.preference.statistics import pair_statistics
from tests.preference.test_generate import make_config


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, tiny_weights, studio_set, preferences):
    """All hypotheses of ten images whose pairs are held to be far apart in error, by a guard of every kind."""
    output = tmp_path_factory.mktemp("guarded")
    values = np.concatenate(
        [ShardReader(preferences / "studio-error").read(row).extras["pairs.npy"]["winner_value"] for row in range(10)]
    )
    config = make_config(
        output,
        tiny_weights,
        studio_set,
        ["error", "truth"],
        strategy="margin",
        margin={"error": 0.001, "truth": 0.0},
        confidence={"error": float(np.median(values))},
        distinct=0.5,
        keep="all",
        features="none",
    )
    run_stage(config)
    return output / "studio-error"


def test_the_figures_are_those_of_all_pairs(preferences):
    folder = preferences / "studio-error"
    pairs = np.concatenate([ShardReader(folder).read(row).extras["pairs.npy"] for row in range(10)])
    figures = inspect_preferences(folder)
    assert (figures["images"], figures["left_out"], figures["pairs"]) == (10, 0, 20)
    assert figures["pairs_an_image"] == [0, 10] and figures["settings"]["strategy"] == "random"
    assert {name: figures[name] for name in pair_statistics(folder)} == pair_statistics(folder)
    for name in ("winner_value", "loser_value"):
        assert figures["quantiles"][name]["50"] == pytest.approx(np.median(pairs[name]))
    assert figures["quantiles"]["winner_pve_mm"]["95"] == pytest.approx(np.percentile(1000 * pairs["winner_error"], 95))
    assert figures["zero_noise_winners"] == (pairs["winner_index"] == 0).mean()
    assert sum(figures["difference"]["pairs"]) == 20
    shares = [
        share for share, count in zip(figures["difference"]["right_order"], figures["difference"]["pairs"]) if count
    ]
    assert shares == [1.0] * len(shares)
    json.dumps(figures, allow_nan=False)
    pixels = np.linalg.norm((pairs["winner_uvd"] - pairs["loser_uvd"]) * (1, 1, 32), axis=-1).mean()
    assert figures["distance_px"] == pytest.approx(pixels, rel=1e-5)


def test_a_scorer_has_scores_and_chance_is_right_as_often_as_not(preferences):
    figures = inspect_preferences(preferences / "studio-scorer")
    quantiles = figures["quantiles"]
    assert quantiles["winner_score"]["50"] == pytest.approx(
        1 / (1 + np.exp(-5 * quantiles["winner_value"]["50"])), abs=1e-3
    )
    assert "winner_score" not in inspect_preferences(preferences / "studio-random")["quantiles"]


def test_the_guards_leave_what_they_admit_and_say_why(guarded):
    reader, figures = ShardReader(guarded), inspect_preferences(guarded)
    least = figures["settings"]["confidence"]["error"]
    without_winner = 0
    for row in range(len(reader)):
        sample = reader.read(row)
        pairs, hypotheses = sample.extras["pairs.npy"], sample.extras["hypotheses.npy"]
        assert (pairs["winner_value"] >= least).all()
        assert (pairs["winner_value"] - pairs["loser_value"] >= np.float32(0.001)).all()
        without_winner += int(hypotheses["value"].max() < least)
    assert figures["left_out"] == sum(figures["left_out_by"].values()) == len(reader) - figures["images"] > 0
    assert figures["left_out_by"]["confidence"] == without_winner > 0
    assert f"{figures['left_out']} left out" in describe(figures) and "by confidence" in describe(figures)
    assert json.loads((guarded / "statistics.json").read_text())["left_out"] == figures["left_out"]
    truth = inspect_preferences(guarded.parent / "studio-truth")
    assert truth["pairs"] == 10 and truth["zero_noise_losers"] == 1.0 and truth["left_out_by"] == {}


def test_guards_that_leave_nothing_end_with_what_to_do(tmp_path, tiny_weights, studio_set):
    config = make_config(
        tmp_path, tiny_weights, studio_set, ["scorer"], confidence={"scorer": 1.0}, ledger={"attempts": 1}
    )
    with pytest.raises(AdhmrError, match="studio-scorer: no image has a pair; lower margin, confidence or distinct"):
        run_stage(config)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"margin": 0.1}, "expected a number for each ranking, as {scorer: 0.1}"),
        ({"margin": {"random": 0.1}}, "margin.random: no set is ranked by random"),
        ({"margin": {"error": -0.1}}, "greater than or equal to 0"),
        ({"confidence": {"scorer": 1.5}}, "it is a score, sigmoid"),
        ({"confidence": {"error": 0.1}}, "minus a distance, at most 0"),
        ({"confidence": {"truth": 0}}, "the winners are labels"),
        ({"strategy": "best"}, "'random', 'best_worst' or 'margin'"),
    ],
)
def test_guards_that_make_no_sense(tmp_path, tiny_weights, studio_set, changes, message):
    with pytest.raises(ValidationError, match=message):
        make_config(tmp_path, tiny_weights, studio_set, ["error", "scorer", "truth"], **changes)


# ------------------------------------------------------------------------------------------------------- the sheet
def test_the_sheet_has_a_pair_of_as_many_images_as_asked_for(preferences, guarded, tmp_path):
    sheet = cv2.imread(str(pair_sheet(preferences / "studio-random", 5, tmp_path / "out" / "sheet.png")))
    cell = 3 * 64, 2 * 3 * 64  # crops of 64 pixels are enlarged to at least 160
    assert sheet.shape == (2 * (cell[0] + 2 * 14 + 6) + 6, 4 * (cell[1] + 6) + 6, 3)
    first, last = sheet[20 : 20 + cell[0], 6 : 6 + cell[1]], sheet[-cell[0] :, cell[1] + 12 :]
    assert first.std() > 10 and last.max() == 30  # five cells: the second row ends after one
    green, red = (90, 220, 90), (240, 80, 80)
    left, right = first[:, : cell[0]], first[:, cell[0] :]
    assert (left[..., ::-1] == green).all(-1).any() and not (right[..., ::-1] == green).all(-1).any()
    assert (right[..., ::-1] == red).all(-1).any() and not (left[..., ::-1] == red).all(-1).any()
    assert pair_sheet(guarded, 10, tmp_path / "guarded.jpg").stat().st_size > 1000  # images without a pair are none


# ----------------------------------------------------------------------------------------------------- the command
@pytest.fixture
def inspect(monkeypatch, capsys):
    def command(*arguments) -> subprocess.CompletedProcess[str]:
        line = ["adhmr", "prefs", "inspect", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", line)
        code = 0
        try:
            cli.main()
        except SystemExit as leaving:
            code = leaving.code
        return subprocess.CompletedProcess(line, code, *capsys.readouterr())

    return command


def test_the_command_prints_and_draws(inspect, preferences, tmp_path):
    said = inspect(preferences / "studio-scorer", "--sheet", tmp_path / "sheet.jpg", "--count", "3")
    assert said.returncode == 0 and (tmp_path / "sheet.jpg").exists()
    for words in ("10 of 10", "20, 2.00 an image (10 with 2)", "strategy random", "winner PVE mm", "#####"):
        assert words in said.stdout
    figures = json.loads(inspect(preferences / "studio-scorer", "--json").stdout)
    assert figures["pairs"] == 20 and not (preferences / "studio-scorer" / "pairs.jpg").exists()


def test_what_is_no_preference_folder_is_refused(inspect, studio_set):
    said = inspect(studio_set)
    assert said.returncode == 2 and "a data set without pairs" in said.stderr
