"""A made-up release, converted and cleaned: the owners' files filtered by it give the kept samples again, and all else
in them is as it was."""

import json
from pathlib import Path

import numpy as np
import pytest

from adhmr.cleaning.clean import run_stage
from adhmr.cleaning.filter_originals import filter_originals
from adhmr.config.stages import CleanStage
from adhmr.data.shard_reader import ShardReader
from adhmr.data.sources.bodies import BodyFiles
from adhmr.data.sources.context_crop import ContextCrop
from adhmr.data.sources.convert import convert
from adhmr.data.sources.source import Release
from adhmr.errors import AdhmrError
from tests.data.sources.made_annotations import COCO_JOINTS, coco_files, write_h36m, write_json
from tests.data.sources.made_human_data import Row, write_human_data
from tests.data.sources.made_people import open_body_as_smplx, photographs
from tests.tiny import CROP, adhmr

COCO_FILE = "annotations/coco_wholebody_train_v1.0.json"
FIT_FILE = "annotations/MSCOCO_train_SMPLX_all_NeuralAnnot.json"


@pytest.fixture
def cleaned(tmp_path, tiny_weights):
    """Converts a release, cleans it of 40 % and returns the cleaned folder."""

    def make(name: str, root: Path, bodies: BodyFiles, file: Path | None = None) -> Path:
        folder = converted(name, root, tmp_path / "set", bodies, file)
        config = CleanStage(
            stage="clean",
            output=tmp_path / "clean",
            scorer=tiny_weights / "scorer.safetensors",
            sets=[folder],
            padding=CROP["padding"],
            percentile=40,
            pictures=1,
        )
        run_stage(config)
        return config.output / "set"

    return make


def converted(name: str, root: Path, output: Path, bodies: BodyFiles, file: Path | None = None) -> Path:
    split = "all" if name == "human-data" else "train"
    convert(name, Release(root, split, file=file), output, bodies, ContextCrop(), processes=1)
    return output


def assert_same_samples(folder: Path, expected: Path) -> None:
    ours, theirs = ShardReader(folder), ShardReader(expected)
    assert len(ours) == len(theirs) > 0
    for row in range(len(ours)):
        one, two = ours.read_members(row), theirs.read_members(row)
        assert one["jpg"] == two["jpg"]
        one, two = ours.read_record(row), theirs.read_record(row)
        for name in one.dtype.names:  # bodies are posed in batches of another size
            np.testing.assert_allclose(one[name], two[name], rtol=1e-4, atol=1e-4)


def human_data(root: Path) -> Path:
    rows = []
    for n, picture in enumerate(photographs(5, 1)):
        picture.save(root / f"{n}.jpg")
        rows.append(Row(f"{n}.jpg", picture, picture.people[0]))
    return write_human_data(root / "made.npz", rows, "smpl", note=np.array("kept as it is"), five=np.arange(5))


def test_human_data(tmp_path, cleaned):
    file = human_data(tmp_path / "release")
    folder = cleaned("human-data", file.parent, BodyFiles(), file)
    said = adhmr("clean", "filter", folder, "--original", file, "--out", tmp_path / "out")
    assert said.returncode == 0 and "made.npz: 3 of 5 people" in said.stdout, said.stderr
    rows = sorted(ShardReader(folder).read(row).provenance["row"] for row in range(3))
    with np.load(file, allow_pickle=True) as old, np.load(tmp_path / "out/made.npz", allow_pickle=True) as new:
        assert old.files == new.files and new["five"].tolist() == rows and new["note"] == "kept as it is"
        assert (new["keypoints2d_smpl_mask"] == old["keypoints2d_smpl_mask"]).all()
        assert (new["smpl"].item()["body_pose"] == old["smpl"].item()["body_pose"][rows]).all()
        assert new["meta"].item()["height"] == [480] * 3
        assert {name: new[name].dtype for name in new.files} == {name: old[name].dtype for name in old.files}
    back = converted("human-data", file.parent, tmp_path / "back", BodyFiles(), tmp_path / "out/made.npz")
    assert_same_samples(back, folder)
    filter_originals(folder, [file], tmp_path / "mask", mask=True)
    assert np.flatnonzero(np.load(tmp_path / "mask/made-kept.npy")).tolist() == rows


def test_coco_and_its_fits(tmp_path, cleaned):
    root, pictures = tmp_path / "release", photographs(3, 2, seed=5)
    annotations, fits = coco_files(pictures, COCO_JOINTS, "{n:012d}.jpg")
    for n, picture in enumerate(pictures):
        picture.save(root / f"images/train2017/{n:012d}.jpg")
    write_json(root / COCO_FILE, annotations | {"info": {"year": 2017}})
    write_json(root / FIT_FILE, fits)
    bodies = BodyFiles(smplx={"neutral": open_body_as_smplx(tmp_path / "SMPLX.npz")})
    folder = cleaned("coco-neuralannot", root, bodies)
    kept = sorted(ShardReader(folder).read(row).provenance["annotation"] for row in range(len(ShardReader(folder))))
    lines = filter_originals(folder, [root / FIT_FILE], tmp_path / "part")
    assert lines[0].endswith(f"{len(kept)} of 6 fits") and "not filtered: coco_wholebody_train_v1.0.json" in lines[1]
    out = tmp_path / "out/annotations"
    filter_originals(folder, [root / COCO_FILE, root / FIT_FILE], out)
    ours = json.loads((out / Path(COCO_FILE).name).read_text())
    assert [one["id"] for one in ours["annotations"]] == kept and ours["info"] == {"year": 2017}
    assert ours["images"] == annotations["images"]
    assert ours["annotations"][0] in annotations["annotations"]
    assert json.loads((out / Path(FIT_FILE).name).read_text()) == {str(number): fits[str(number)] for number in kept}
    (tmp_path / "out/images").symlink_to(root / "images")
    assert_same_samples(converted("coco-neuralannot", tmp_path / "out", tmp_path / "back", bodies), folder)
    filter_originals(folder, [root / COCO_FILE], tmp_path / "mask", mask=True)
    assert json.loads((tmp_path / "mask/coco_wholebody_train_v1.0-kept.json").read_text()) == kept


def test_human36m_by_subject(tmp_path, cleaned):
    root = tmp_path / "release"
    write_h36m(root, photographs(10, 1, (300, 240), seed=3))
    folder = cleaned("h36m-osx", root, BodyFiles(smplx={"neutral": open_body_as_smplx(tmp_path / "SMPLX.npz")}))
    reader = ShardReader(folder)
    kept = [reader.read(row).provenance for row in range(len(reader))]
    files = sorted({one["file"] for one in kept})
    lines = filter_originals(folder, [root / "annotations" / name for name in files], tmp_path / "out")
    assert len(lines) == len(files)
    for name in files:
        ours = json.loads((tmp_path / "out" / name).read_text())
        assert {one["id"] for one in ours["annotations"]} == {p["annotation"] for p in kept if p["file"] == name}


def test_scorehypo_lists_count_by_rows(tmp_path, converted_rows):
    write_json(tmp_path / "people.json", [{"n": n} for n in range(4)])
    write_json(
        tmp_path / "zipped.json", {"images": [{"i": n} for n in range(4)], "annotations": [{"n": n} for n in range(4)]}
    )
    folder = converted_rows({"people.json": [1, 3], "zipped.json": [0]})
    filter_originals(folder, [tmp_path / "people.json", tmp_path / "zipped.json"], tmp_path / "out")
    assert json.loads((tmp_path / "out/people.json").read_text()) == [{"n": 1}, {"n": 3}]
    assert json.loads((tmp_path / "out/zipped.json").read_text()) == {"images": [{"i": 0}], "annotations": [{"n": 0}]}


@pytest.fixture
def converted_rows(tmp_path, studio_set):
    """A set whose samples say that they are from these rows of these files."""
    from tests.cleaning.test_export import changed

    def make(rows: dict[str, list[int]]) -> Path:
        places = [{"file": name, "row": row} for name, numbers in rows.items() for row in numbers]
        return changed(studio_set, tmp_path / "rows", lambda row, _: places[row % len(places)])

    return make


def test_what_does_not_fit_is_said(tmp_path, converted_rows, studio_set):
    with pytest.raises(AdhmrError, match="its provenance names no 'file' with 'row' or 'annotation'"):
        filter_originals(studio_set, [tmp_path / "made.npz"], tmp_path / "out")
    folder = converted_rows({"people.json": [7]})
    write_json(tmp_path / "people.json", [{}] * 5)
    with pytest.raises(AdhmrError, match=r"people.json: has 5 rows, but a kept sample is from row 7"):
        filter_originals(folder, [tmp_path / "people.json"], tmp_path / "out")
    with pytest.raises(AdhmrError, match=r"people.json lies there and would be replaced"):
        filter_originals(folder, [tmp_path / "people.json"], tmp_path)
    write_json(tmp_path / "other.json", [{}] * 9)
    with pytest.raises(AdhmrError, match=r"nobody in .* is from a file of this name; its people are from people.json"):
        filter_originals(folder, [tmp_path / "other.json"], tmp_path / "out")
    write_json(tmp_path / "none.json", {"a": 1})
    with pytest.raises(AdhmrError, match="expected an object with the list 'annotations', a list of people"):
        filter_originals(folder, [tmp_path / "none.json"], tmp_path / "out")
