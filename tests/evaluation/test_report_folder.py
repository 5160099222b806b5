"""`adhmr report`: which stages it finds, and what it writes of them."""

import csv
import json

import numpy as np
import pytest
from click.testing import CliRunner

from adhmr.cli import cli
from adhmr.errors import AdhmrError
from adhmr.evaluation.report_folder import markdown
from adhmr.evaluation.section_kinds import KINDS, section_of
from adhmr.evaluation.stage_folders import find_stages, sections
from tests.evaluation.finished_evaluation import write_evaluation


def record(folder, state: str, seconds: float) -> None:
    (folder / "stage.json").write_text(json.dumps({"state": state, "fingerprint": "a-b", "seconds": seconds}))


@pytest.fixture
def pipeline(tmp_path):
    """Two evaluations, one of them begun again, a training, and a result that was put aside."""
    record(write_evaluation(tmp_path / "pipe/evaluate"), "done", 12.4)
    record(write_evaluation(tmp_path / "pipe/later"), "started", 0.0)
    write_evaluation(tmp_path / "pipe/evaluate.previous")
    (tmp_path / "pipe/base").mkdir()
    (tmp_path / "pipe/base/config.yaml").write_text("stage: base\n")
    record(tmp_path / "pipe/base", "done", 100.0)
    return tmp_path / "pipe"


def run(*arguments):
    return CliRunner().invoke(cli, ["report", *map(str, arguments)], catch_exceptions=False)


def test_finished_stages_are_told_and_all_are_listed(pipeline):
    stages = find_stages([pipeline])
    assert [(s.name, s.kind, s.finished) for s in stages] == [
        ("base", "base", True),
        ("evaluate", "evaluate", True),
        ("later", "evaluate", False),
    ]
    (told,) = sections(stages, "pve")
    assert told.name == "evaluate" and "took 12 s" in told.text[-1] and "config.yaml" in told.text[-1]


def test_the_folder_has_a_readme_with_every_table_and_plot(pipeline, tmp_path):
    found = run(pipeline, "--to", tmp_path / "out", "--title", "Aligned | or not", "--metric", "mpjpe")
    assert found.exit_code == 0 and "1 sections" in found.output
    page = (tmp_path / "out/README.md").read_text()
    assert page.startswith("# Aligned | or not\n") and "| base | base | finished | 100 |" in page
    assert "| later | evaluate | not finished |" in page and "| all |  |  | 112 |" in page
    written = tmp_path / "out/evaluate"
    for name in ("methods", "claim", "ablation-mpjpe", "errors-pve"):
        assert (written / f"{name}.md").read_text() in page
        assert (written / f"{name}.csv").stat().st_size
    for name in ("errors-against-hypotheses.png", "changes.png"):
        assert f"](evaluate/{name})" in page and (written / name).read_bytes().startswith(b"\x89PNG")
    with open(written / "methods.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert float(rows[5]["pve_change"]) == -30.0 and rows[0]["pve_seed_spread"] == ""  # full numbers, no text


def test_without_a_folder_the_tables_are_printed(pipeline):
    printed = run(pipeline / "evaluate").output
    assert "methods and predictions" in printed and "does the best of 2 beat base's best of 8?" in printed


def test_stages_of_one_name_in_two_pipelines_are_told_apart(pipeline, tmp_path):
    write_evaluation(tmp_path / "other/evaluate")
    names = [stage.name for stage in find_stages([pipeline, tmp_path / "other"])]
    assert names == ["base", "pipe-evaluate", "later", "other-evaluate"]
    assert len(find_stages([pipeline, pipeline / "evaluate"])) == 3  # the same folder twice is one stage


def test_what_cannot_be_reported_is_said(pipeline, tmp_path):
    with pytest.raises(AdhmrError, match="no stage has run there"):
        find_stages([tmp_path / "nothing"])
    with pytest.raises(AdhmrError, match=r"no finished stage to report on; not finished: .*later \(evaluate\)"):
        find_stages([pipeline / "later"])
    with pytest.raises(AdhmrError, match="no finished stage to report on; expected evaluate, "):
        find_stages([pipeline / "base"])


def test_cells_do_not_break_a_markdown_table():
    assert markdown([["a|b", "mm"], ["  change", "1"]]) == "| a\\|b | mm |\n|---|---:|\n| change | 1 |\n"


def test_pictures_and_cleaning_are_told_from_their_files(tmp_path):
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "worst.jpg").write_bytes(b"jpeg")
    (folder / "figures.json").write_text(json.dumps({"pictures": [{"file": "worst.jpg", "title": "worst images"}]}))
    _, (picture,) = section_of("report", folder, "pve")
    assert (picture.name, picture.ending, picture.draw()) == ("worst", "jpg", b"jpeg")

    (tmp_path / "clean/wild").mkdir(parents=True)
    (tmp_path / "clean/wild/histogram.png").write_bytes(b"png")
    counts = {"labels": 10, "kept": 8, "dropped": 2, "unusable": 0, "raw_5%": -1.0, "raw_50%": 0.0, "raw_95%": 1.0}
    figures = {"threshold": 0.6, "percentile": None, "sets": [{"set": "wild", **counts}]}
    (tmp_path / "clean/figures.json").write_text(json.dumps(figures))
    (text,), (table, histogram) = section_of("clean", tmp_path / "clean", "pve")
    assert "at least 0.6" in text and table.rows[1][-4] == "80.0%" and histogram.draw() == b"png"


def test_regressors_are_told_by_sets(tmp_path):
    models = {"all-0": ("all", 0.0), "all-1": ("all", 2.0), "cleaned": (None, -4.0)}
    (tmp_path / "sets/bench").mkdir(parents=True)
    for name, (_, shift) in models.items():
        np.savez(tmp_path / f"sets/bench/{name}.npz", errors=100.0 + shift + np.arange(5)[:, None] + np.zeros(4))
    about = {"bench": {"samples": 5, "protocol": "smpl24"}}
    figures = {"models": {name: {"group": group} for name, (group, _) in models.items()}, "sets": about}
    (tmp_path / "figures.json").write_text(json.dumps(figures))
    (text,), (table, plot) = section_of("regressors", tmp_path, "pve")
    assert "bench (5 images, protocol smpl24)" in text and plot.draw().startswith(b"\x89PNG")
    first, second = table.records
    assert first["pve"] == 103.0 and first["pve_seed_spread"] == pytest.approx(2**0.5)
    assert (second["method"], second["mpjpe_change"], second["mpjpe_change_se"]) == ("cleaned", -5.0, 0.0)


def test_every_kind_names_a_function():
    for kind in KINDS.values():
        module, function = kind.function.split(":")
        assert callable(getattr(__import__(module, fromlist=[function]), function))
