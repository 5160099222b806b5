"""`adhmr data convert` and `adhmr data sources` as people type them."""

import json
import sys
from pathlib import Path

import pytest

from adhmr import cli
from adhmr.data.shard_reader import ShardReader
from adhmr.data.sources.registry import SOURCES, source_class
from tests.data.sources.made_human_data import Row, write_human_data
from tests.data.sources.made_people import open_body_as_smplx, photographs


@pytest.fixture
def adhmr(monkeypatch, capsys):
    """The command in this process: exit code and what it printed."""

    def command(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["adhmr", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as leaving:
            code = leaving.code
        return code, *capsys.readouterr()

    return command


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("up3d")
    rows = []
    for number, photo in enumerate(photographs(4, 1, (240, 320))):
        rows.append(Row(f"images/{number:05d}_image.png", photo, photo.people[0]))
        photo.save(root / "UP3D" / rows[-1].image)
    write_human_data(root / "preprocessed_datasets/up3d_trainval.npz", rows, "smplx")
    open_body_as_smplx(root / "SMPLX_NEUTRAL.npz")
    return root


def test_a_conversion_with_every_option(adhmr, release, tmp_path):
    out = tmp_path / "out"
    options = ("--smplx", f"neutral={release / 'SMPLX_NEUTRAL.npz'}", "--side", 128, "--context", 1.8, "--processes", 1)
    code, said, _ = adhmr("data", "convert", "up3d-humandata", "--root", release, "--out", out, "--limit", 3, *options)
    assert code == 0 and "3 of 3 people" in said and str(out / "contact_sheet.jpg") in said
    reader = ShardReader(out)
    assert reader.index.source == "UP-3D" and reader.index.split == "trainval"
    assert max(reader.read(0).image.shape[:2]) <= 128
    request = json.loads((out / "conversion.json").read_text())
    assert request["side"] == 128 and request["context"] == 1.8 and set(request["bodies"]) == {"body", "smplx neutral"}
    parts = {}
    for part in ("train", "val"):
        where = tmp_path / part
        split = ("--held-out", 0.5, "--part", part)
        code, _, error = adhmr("data", "convert", "up3d-humandata", "--root", release, "--out", where, *options, *split)
        assert code == 0, error
        parts[part] = len(ShardReader(where))
    assert sum(parts.values()) == 4 and min(parts.values()) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("spec", "--root", "."), "Missing option '--out'"),
        (("nonsense", "--root", ".", "--out", "o"), "no data set is called 'nonsense'; known: "),
        (("spec", "--root", "nowhere", "--out", "o"), "--root nowhere: no such folder"),
        (("spec", "--root", ".", "--out", "o", "--split", "val"), "spec has no split 'val'; expected train, test"),
        (("spec", "--root", ".", "--out", "o"), "there is no preprocessed_datasets/spec_train_smpl.npz"),
        (
            ("spec", "--root", ".", "--out", "o", "--held-out", "0.1"),
            "--held-out SHARE and --part train|val go together",
        ),
        (("spec", "--root", ".", "--out", "o", "--held-out", "1"), "is not in the range 0<x<1"),
        (("spec", "--root", ".", "--out", "o", "--smplx", "both=x.npz"), "expected GENDER=FILE"),
        (("human-data", "--root", ".", "--out", "o", "--file", "x.npz"), "--file x.npz: no such file"),
    ],
)
def test_mistakes_are_one_error(arguments, message, adhmr, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said, error = adhmr("data", "convert", *arguments)
    assert code == 2 and message in error and "Traceback" not in error and not said
    assert not (tmp_path / "o").exists()


def test_sources_are_listed_with_splits_and_a_licence(adhmr):
    code, said, _ = adhmr("data", "sources")
    assert code == 0
    lines = {line.split()[0]: line for line in said.splitlines()}
    assert list(lines) == list(SOURCES)
    for name in SOURCES:
        kind = source_class(name)
        assert kind.splits and all(split in lines[name] for split in kind.splits)


def test_every_source_is_in_the_docs():
    text = (Path(__file__).resolve().parents[3] / "docs" / "datasets.md").read_text()
    assert [name for name in SOURCES if f"`{name}`" not in text and f"`{name} " not in text] == []
