"""Errors by round of alignment: which models are rounds, the table and the curves of a finished evaluation."""

import json

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from adhmr.config.evaluation import EvaluateStage
from adhmr.evaluation.round_curves import round_curves
from adhmr.evaluation.tables import EvaluationResult, print_tables, round_table
from tests.tiny import CROP

IMAGES = 20
MODELS = {  # name -> (group, round, shift of its errors in millimetres); not in the order of rounds
    "second-0": ("second", 2, -6.0),
    "second-1": ("second", 2, -4.0),
    "base": (None, 0, 0.0),
    "first": (None, 1, -2.0),
    "other": (None, None, 9.0),
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "models").mkdir()
    figures = {"protocol": "smpl24", "hypotheses": [2, 6], "samples": IMAGES, "models": {}}
    hard = np.random.default_rng(0).uniform(50, 150, (IMAGES, 6, 4))
    for name, (group, number, shift) in MODELS.items():
        arrays = {"errors": hard + shift, "mean_errors": hard[:, 0] + shift}
        np.savez(tmp_path / "models" / f"{name}.npz", identity="x", **arrays)
        figures["models"][name] = {"group": group, "round": number, "rankings": {}}
    (tmp_path / "figures.json").write_text(json.dumps(figures))
    return tmp_path


def test_the_table_has_a_column_for_each_round(folder):
    result = EvaluationResult(folder)
    assert result.rounds == {0: "base", 1: "first", 2: "second"}
    header, *rows = round_table(result, "base")
    assert header == ["mm", "round 0", "round 1", "round 2"]
    assert [row[0] for row in rows[:4]] == ["PVE min 6", "PVE zero", "PVE random", "MPJPE min 6"]
    assert len(rows) == 4 * 3  # no scorer was there to choose
    zero = result.columns("base", "pve")["zero"].mean()
    assert rows[1][1:] == [f"{zero:.1f}", f"{zero - 2:.1f} (-2.00 ± 0.00)", f"{zero - 5:.1f} (-5.00 ± 0.00)"]


def test_the_curves_are_a_picture(folder):
    picture = cv2.imdecode(np.frombuffer(round_curves(EvaluationResult(folder), "base"), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape[1] > 1000 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 50


def test_the_terminal_shows_rounds_where_there_are_some(folder, capsys):
    print_tables(folder, "base")
    assert "by round" in capsys.readouterr().out
    figures = json.loads((folder / "figures.json").read_text())
    for entry in figures["models"].values():
        entry["round"] = None
    (folder / "figures.json").write_text(json.dumps(figures))
    print_tables(folder, "base")
    assert "by round" not in capsys.readouterr().out


def test_a_round_is_one_method(tmp_path):
    def stage(*models):
        listed = [{"name": n, "weights": f"{n}.safetensors", "group": g, "round": r} for n, g, r in models]
        return EvaluateStage(stage="evaluate", output=tmp_path, data="set", crop=CROP, models=listed)

    stage(("base", None, 0), ("a-0", "a", 1), ("a-1", "a", 1), ("b", None, None))
    with pytest.raises(ValidationError, match="'a' and 'b' are both round 1; expected one model or one group a round"):
        stage(("a-0", "a", 1), ("b", None, 1))
    with pytest.raises(ValidationError, match=r"models\.0\.round"):
        stage(("a", None, -1))
