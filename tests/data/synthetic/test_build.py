import hashlib

import numpy as np
import pytest

from adhmr.data.index import DataSetIndex
from adhmr.data.schema import SAMPLE_DTYPE
from adhmr.data.shard_reader import ShardReader
from adhmr.data.synthetic import build
from adhmr.data.synthetic.build import synthesise
from adhmr.errors import AdhmrError

INDEX_FILES = {"index.json", "index-keys.npy", "index-samples.npy"}
SMALL = {"count": 25, "seed": 4, "image_size": 64, "samples_per_shard": 10}


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def wild(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / "wild"
    synthesise("synth-wild", folder, processes=1, **SMALL)
    return folder


def test_same_bytes_on_two_processes(wild, tmp_path):
    synthesise("synth-wild", tmp_path / "wild", processes=2, **SMALL)
    assert digests(tmp_path / "wild") == digests(wild)


def test_another_seed_gives_other_bytes(wild, tmp_path):
    synthesise("synth-wild", tmp_path / "wild", processes=1, **{**SMALL, "seed": 5, "count": 10})
    assert digests(tmp_path / "wild")["000000.tar"] != digests(wild)["000000.tar"]


def test_what_the_folder_holds(wild):
    assert set(digests(wild)) == {
        *(f"{number:06d}.tar" for number in range(3)),
        *(f"{number:06d}.tar.idx" for number in range(3)),
        *INDEX_FILES,
        "synthesis.json",
        "truth.npy",
        "truth_kind.npy",
    }
    index = DataSetIndex.load(wild)
    assert index.num_samples == 25 and len(set(index.keys)) == 25


def test_the_truth_lies_beside_in_row_order_and_differs(wild):
    truth, kinds = np.load(wild / "truth.npy"), np.load(wild / "truth_kind.npy")
    assert truth.dtype == SAMPLE_DTYPE and truth.shape == kinds.shape == (25,)
    reader = ShardReader(wild)
    for row in range(25):
        sample = reader.read(row)
        assert sample.image.shape == (64, 64, 3)
        np.testing.assert_array_equal(sample.record["intrinsics"], truth[row]["intrinsics"])
        assert np.abs(sample.record["pose"] - truth[row]["pose"]).max() > 1e-3
        # The same person all the same: pelves are near each other in the picture.
        assert np.linalg.norm(sample.record["joints29_px"][0] - truth[row]["joints29_px"][0]) < 0.05 * 64
        assert set(sample.extras) == {"json"} and sample.provenance["number"] == row


def test_exact_sets_have_no_truth_beside(tmp_path):
    synthesise("synth-bench", tmp_path, count=3, split="test", processes=1, image_size=64)
    assert set(digests(tmp_path)) == {"000000.tar", "000000.tar.idx", *INDEX_FILES, "synthesis.json"}


def test_a_rerun_goes_on_after_whole_shards(wild, tmp_path, monkeypatch):
    real, calls = build._draw_shard, []

    def stops_at_the_second(folder, request, number):
        calls.append(number)
        if calls == [0, 1]:
            raise KeyboardInterrupt
        return real(folder, request, number)

    monkeypatch.setattr(build, "_draw_shard", stops_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        synthesise("synth-wild", tmp_path, processes=1, **SMALL)
    assert not (tmp_path / "index.json").exists()
    synthesise("synth-wild", tmp_path, processes=1, **SMALL)
    assert calls == [0, 1, 1, 2]
    assert digests(tmp_path) == digests(wild)
    synthesise("synth-wild", tmp_path, processes=1, **SMALL)  # finished: nothing more is drawn
    assert calls == [0, 1, 1, 2]


def test_a_folder_of_another_set_is_refused(wild):
    with pytest.raises(AdhmrError, match="seed is 4, asked for 9"):
        synthesise("synth-wild", wild, processes=1, **{**SMALL, "seed": 9})
    with pytest.raises(AdhmrError, match="name is 'synth-wild'"):
        synthesise("synth-game", wild, processes=1, **SMALL)


@pytest.mark.parametrize("wrong", [{"count": 0}, {"image_size": 1000}, {"processes": 0}])
def test_numbers_out_of_range_are_refused(tmp_path, wrong):
    with pytest.raises(AdhmrError, match="synth-studio"):
        synthesise("synth-studio", tmp_path, **{"count": 2, **wrong})
    assert not any(tmp_path.iterdir())


def test_shards_of_two_bodies_never_mix(wild, monkeypatch):
    monkeypatch.setattr(build, "_assets_digest", lambda: "of another body")
    with pytest.raises(AdhmrError, match="assets is"):
        synthesise("synth-wild", wild, processes=1, **SMALL)


def test_progress_is_told_in_plain_lines_without_a_terminal(tmp_path, capsys):
    synthesise("synth-studio", tmp_path, count=3, processes=1, image_size=64)
    assert "synth-studio: 3/3 images" in capsys.readouterr().out
