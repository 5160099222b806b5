"""The conversion as a whole: the same bytes however often it was killed and on however many processes, empty shards,
nobody left, parts that share nobody, and what it says at the end."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from adhmr.data.shard_reader import ShardReader
from adhmr.data.sources import convert as conversion
from adhmr.data.sources import convert_shard as shards
from adhmr.data.sources.bodies import BodyFiles
from adhmr.data.sources.context_crop import ContextCrop
from adhmr.data.sources.held_out import HeldOut
from adhmr.data.sources.source import Release
from adhmr.data.verify import verify
from adhmr.errors import AdhmrError
from tests.data.sources.made_human_data import Row, as_object, parameters, write_human_data
from tests.data.sources.made_people import photographs

PEOPLE = 24


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A HumanData file of 24 people, one in each of 24 images of eight sequences; six different photographs."""
    folder = tmp_path_factory.mktemp("release")
    photos = photographs(6, 1, (240, 320), seed=1)
    rows = []
    for number in range(PEOPLE):
        photo = photos[number % 6]
        rows.append(Row(f"seq{number // 3}/{number:04d}.jpg", photo, photo.people[0]))
        photo.save(folder / rows[-1].image)
    write_human_data(folder / "people.npz", rows, "smpl")
    write_human_data(folder / "spoilt.npz", rows, "smpl", smpl=as_object(spoilt(rows)))
    return folder


def spoilt(rows: list[Row]) -> dict[str, np.ndarray]:
    """Parameters in which a whole shard of six, the second, and person 13 are not numbers."""
    stored = parameters([row.person for row in rows], "smpl")
    stored["body_pose"][6:12] = np.nan
    stored["body_pose"][13] = np.nan
    return stored


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(conversion, "PEOPLE_A_SHARD", 6)


def convert(root: Path, out: Path, file: str = "people.npz", processes: int = 1, **options) -> list[str]:
    release = Release(root, "all", file=root / file)
    return conversion.convert("human-data", release, out, BodyFiles(), ContextCrop(), processes, **options)


def hashes(folder: Path) -> dict[str, str]:
    """Of all files but the report, which holds seconds."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "report.json")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory) -> dict[str, str]:
    """Hashes of a conversion that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversion, "PEOPLE_A_SHARD", 6)
        convert(root, out, "spoilt.npz")
    assert verify(out, quick=False, processes=1) == []
    return hashes(out)


def test_any_number_of_processes_gives_the_same_bytes(root, whole, tmp_path):
    convert(root, tmp_path / "out", "spoilt.npz", processes=2)
    assert hashes(tmp_path / "out") == whole


@pytest.mark.parametrize("place", ["write_shard", "write_atomically"])
@pytest.mark.parametrize("after", [0, 2])
def test_a_killed_conversion_goes_on_and_gives_the_same_bytes(place, after, root, whole, tmp_path, monkeypatch):
    """Killed before a shard is there, and between a shard and its mark."""
    calls = []

    def killed(*arguments, **keywords):
        calls.append(arguments)
        if len(calls) > after:
            raise KeyboardInterrupt
        return real(*arguments, **keywords)

    real = getattr(shards, place)
    with monkeypatch.context() as patch:
        patch.setattr(shards, place, killed)
        with pytest.raises(KeyboardInterrupt):
            convert(root, tmp_path / "out", "spoilt.npz")
    assert not (tmp_path / "out" / "index.json").exists()
    convert(root, tmp_path / "out", "spoilt.npz")
    assert hashes(tmp_path / "out") == whole


@pytest.mark.parametrize("place", ["write_index", "contact_sheet", "_gather"])
def test_killed_at_the_end(place, root, whole, tmp_path, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(conversion, place, killed)
        with pytest.raises(KeyboardInterrupt):
            convert(root, tmp_path / "out", "spoilt.npz")
    convert(root, tmp_path / "out", "spoilt.npz")
    assert hashes(tmp_path / "out") == whole


def test_what_is_said_at_the_end(root, tmp_path):
    lines = convert(root, tmp_path / "out", "spoilt.npz")
    assert lines[0] == f"{tmp_path / 'out'}: 17 of 24 people"
    assert lines[1] == "  left out, its pose is not a number: 7"
    assert "more than 20% were left out: look at" in lines[2]
    assert "samples/s a core (labels" in lines[3] and lines[4].endswith("contact_sheet.jpg")
    assert (tmp_path / "out" / "contact_sheet.jpg").stat().st_size > 1000
    assert len((tmp_path / "out" / "rejected.txt").read_text().splitlines()) == 7
    reader = ShardReader(tmp_path / "out")
    # Two of the four shards are whole, one is short, one has nobody and is not there.
    assert reader.index.shard_names == ["000000.tar", "000001.tar", "000002.tar"]
    assert list(reader.index.shard_counts) == [6, 5, 6]
    assert not (tmp_path / "out" / "parts").exists()
    assert convert(root, tmp_path / "out", "spoilt.npz")[0] == lines[0]  # once more: nothing is done


def test_nobody_left_is_an_error_with_the_reasons(root, tmp_path):
    for file in ("people.npz", "spoilt.npz"):
        content = dict(np.load(root / file, allow_pickle=True))
        content["bbox_xywh"] = np.zeros((PEOPLE, 5))
        np.savez(tmp_path / "empty.npz", **content)
        release = Release(root, "all", file=tmp_path / "empty.npz")
        with pytest.raises(AdhmrError, match=r"of 24 people not one could be converted .*its box is empty: "):
            conversion.convert("human-data", release, tmp_path / file[:3], BodyFiles(), ContextCrop(), 1)


def test_images_of_which_none_is_there_stop_it_at_the_first_shard(root, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    release = Release(tmp_path / "elsewhere", "all", file=root / "people.npz")
    with pytest.raises(AdhmrError, match="elsewhere: not one image of a whole shard is there"):
        conversion.convert("human-data", release, tmp_path / "out", BodyFiles(), ContextCrop(), 1)


def test_a_folder_of_another_conversion_is_refused(root, tmp_path):
    convert(root, tmp_path / "out", limit=6)
    for options, key in (({}, "people"), ({"limit": 6, "file": "spoilt.npz"}, "files")):
        with pytest.raises(AdhmrError, match=rf"conversion.json: {key} is .* choose another folder"):
            convert(root, tmp_path / "out", **options)


def test_parts_share_no_group_and_are_all_together(root, tmp_path):
    found = {}
    for part in ("train", "val"):
        convert(root, tmp_path / part, held_out=HeldOut(0.4, part))
        reader = ShardReader(tmp_path / part)
        assert reader.index.split == f"all-{part}"
        samples = [reader.read(row) for row in range(len(reader))]
        found[part] = {sample.provenance["group"] for sample in samples}, {sample.key for sample in samples}
    assert not found["train"][0] & found["val"][0] and found["train"][0] and found["val"][0]
    assert len(found["train"][1] | found["val"][1]) == PEOPLE
    request = json.loads((tmp_path / "val" / "conversion.json").read_text())
    assert request["held_out"] == 0.4


def test_held_out_is_the_share_that_was_asked_for():
    groups = [f"subject {number}" for number in range(2000)]
    val, train = ([HeldOut(0.1, part).takes(group) for group in groups] for part in ("val", "train"))
    assert 150 < sum(val) < 250 and all(a != b for a, b in zip(val, train))


def test_what_cannot_be_opened(root, tmp_path):
    for name, release, message in (
        ("nonsense", Release(root, "all"), "no data set is called 'nonsense'; known: "),
        ("spec", Release(tmp_path / "none", "train"), "none: no such folder"),
        ("spec", Release(root, "val"), "spec has no split 'val'; expected train, test"),
        ("human-data", Release(root, "all", file=root / "no.npz"), "no.npz: no such file"),
        ("human-data", Release(root, "all"), "give the .npz"),
    ):
        with pytest.raises(AdhmrError, match=message):
            conversion.convert(name, release, tmp_path / "out", BodyFiles(), ContextCrop())
