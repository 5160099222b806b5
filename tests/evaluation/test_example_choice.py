"""Which images a report shows: random ones, and the extremes by the errors of an evaluation."""

import numpy as np
import pytest

from adhmr.config.evaluation import ReportStage
from adhmr.errors import AdhmrError
from adhmr.evaluation.example_choice import choose_examples
from adhmr.evaluation.tables import EvaluationResult
from tests.evaluation.finished_evaluation import IMAGES, write_evaluation
from tests.tiny import CROP


class Reader:
    """What the choice asks of a data set: twice as many rows as were evaluated."""

    class index:
        fingerprint = "the set"

    def __len__(self):
        return 2 * IMAGES


@pytest.fixture
def result(tmp_path):
    """Every second row was evaluated; `ours` gains most on image 4 and loses most on image 9."""
    found = EvaluationResult(write_evaluation(tmp_path / "evaluate", "the set", stride=2))
    for name in ("ours-0", "ours-1"):
        found.arrays[name]["errors"][4] -= 50
        found.arrays[name]["errors"][9] += 90
    return found


def stage(tmp_path, *compared: str, **changes) -> ReportStage:
    models = [{"name": name, "weights": f"{name}.safetensors"} for name in compared]
    values = {"title": "t", "evaluation": "e", "data": "set", "crop": CROP, "compared": models, **changes}
    return ReportStage(stage="report", output=tmp_path, **values)


def test_extremes_are_rows_of_the_set(tmp_path, result):
    chosen = choose_examples(stage(tmp_path, "base", "ours", pictures=5, extremes=2), result, Reader())
    rows = {examples.name: examples.rows for examples in chosen}
    assert list(rows) == ["random", "worst", "gains", "losses"]
    assert rows["worst"] == [2 * (IMAGES - 1), 2 * (IMAGES - 2)]  # the last image is the hardest
    assert rows["gains"][0] == 8 and rows["losses"][0] == 18
    assert len(set(rows["random"])) == 5 and rows["random"] == sorted(rows["random"])
    assert rows["random"] != np.linspace(0, 59, 5).round().tolist()


def test_a_seed_is_a_method_too_and_random_images_follow_the_seed(tmp_path, result):
    first, *_, losses = choose_examples(stage(tmp_path, "base", "ours-1", extremes=1), result, Reader())
    assert losses.rows == [18]
    other = choose_examples(stage(tmp_path, "base", "ours-1", extremes=1, seed=1), result, Reader())[0]
    assert first.rows != other.rows and len(first.rows) == 12


def test_without_a_second_model_there_is_no_gain(tmp_path, result):
    chosen = choose_examples(stage(tmp_path, "base", pictures=0), result, Reader())
    assert [examples.name for examples in chosen] == ["worst"]


def test_errors_of_another_set_choose_nothing(tmp_path, result):
    result.figures["settings"]["data"] = "another"
    with pytest.raises(AdhmrError, match=r"is not the set that e evaluated.*or set extremes: 0"):
        choose_examples(stage(tmp_path, "base"), result, Reader())
    assert len(choose_examples(stage(tmp_path, "base", extremes=0), result, Reader())) == 1


def test_an_unknown_model_is_named(tmp_path, result):
    with pytest.raises(AdhmrError, match="holds no model or group 'mine'"):
        choose_examples(stage(tmp_path, "base", "mine"), result, Reader())
