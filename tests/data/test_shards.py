"""Writer, index and reader together: they are two ends of one format."""

import hashlib
import io
import json
import pickle

import cv2
import numpy as np
import pytest
import webdataset

from adhmr.data.index import DataSetIndex
from adhmr.data.index_build import write_index
from adhmr.data.schema import decode_record, new_record
from adhmr.data.shard_index import scan_shard
from adhmr.data.shard_reader import CorruptSampleError, ShardReader
from adhmr.data.shard_writer import ShardSample, ShardWriter, shard_name, write_shard
from adhmr.errors import AdhmrError

ABOUT = {"source": "test", "split": "train", "licence": "CC0"}


def folder_hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_a_sample_comes_back_as_it_was_written(tmp_path, make_record):
    record, noise = make_record(np.random.default_rng(0)), np.arange(6, dtype=np.float32)
    jpeg = cv2.imencode(".jpg", np.full((80, 96, 3), (0, 0, 250), np.uint8))[1].tobytes()  # OpenCV: red
    noise_bytes = io.BytesIO()
    np.save(noise_bytes, noise)
    with ShardWriter(tmp_path / "set", **ABOUT) as writer:
        writer.write("a", jpeg, new_record_of_size(80, 96), {"n": 0})
        writer.write("b", jpeg, record, {"n": 1}, {"pairs.npy": noise_bytes.getvalue(), "txt": b"note"})
    reader = ShardReader(tmp_path / "set")
    first, sample = reader.read(0), reader.read(1)
    assert (sample.dataset, sample.key, sample.provenance) == ("set", "b", {"n": 1})
    assert sample.record == record and sample.image.shape == (80, 96, 3)
    assert sample.image[40, 40, 0] > 240 and sample.image[40, 40, 2] < 10  # RGB
    np.testing.assert_array_equal(sample.extras["pairs.npy"], noise)
    assert sample.extras["txt"] == b"note" and set(first.extras) == {"json"}
    assert reader.read_record(1) == record


def new_record_of_size(height, width):
    record = new_record()
    record["image_size"] = (height, width)
    return record


def test_plain_webdataset_reads_the_shards(make_set):
    folder = make_set(count=25)
    shards = sorted(str(path) for path in folder.glob("*.tar"))
    samples = list(webdataset.WebDataset(shards, shardshuffle=False))
    reader = ShardReader(folder)
    assert [sample["__key__"] for sample in samples] == reader.index.keys and len(samples) == 25
    for row in (0, 10, 24):
        assert decode_record(samples[row]["npy"]) == reader.read(row).record
        assert json.loads(samples[row]["json"]) == {"number": row}


def test_scanning_a_shard_gives_the_index_the_writer_wrote(make_set):
    folder = make_set(count=25)
    before = folder_hashes(folder)
    assert set(before) == {
        *(shard_name(number) for number in range(3)),
        *(f"{shard_name(number)}.idx" for number in range(3)),
        *("index.json", "index-keys.npy", "index-samples.npy"),
    }
    for sidecar in folder.glob("*.idx"):
        sidecar.unlink()
    write_index(folder, **ABOUT)
    assert folder_hashes(folder) == before


def test_the_same_samples_give_the_same_bytes(make_set):
    assert folder_hashes(make_set("one")) == folder_hashes(make_set("two"))


def test_an_interrupted_writer_goes_on_after_the_last_whole_shard(make_set, tmp_path, write_samples):
    whole = make_set("whole", count=25)
    folder = tmp_path / "interrupted"
    with pytest.raises(KeyboardInterrupt), ShardWriter(folder, samples_per_shard=10, **ABOUT) as writer:
        write_samples(writer, 0, 17)
        raise KeyboardInterrupt
    assert sorted(path.name for path in folder.iterdir()) == [shard_name(0), f"{shard_name(0)}.idx"]
    with pytest.raises(AdhmrError, match=r"interrupted has no index.json: unfinished"):
        DataSetIndex.load(folder)
    with ShardWriter(folder, samples_per_shard=10, **ABOUT) as writer:
        assert writer.completed_samples == 10
        write_samples(writer, writer.completed_samples, 25)
    assert folder_hashes(folder) == folder_hashes(whole)


def test_shards_of_parallel_writers_are_one_data_set(tmp_path, make_set):
    reader = ShardReader(make_set("whole", count=20))
    jpeg = cv2.imencode(".jpg", np.zeros((80, 96, 3), np.uint8))[1].tobytes()
    for number in (1, 0):  # finished in any order
        samples = [
            ShardSample(f"k{row}", jpeg, reader.read_record(row), {}) for row in range(number * 10, number * 10 + 10)
        ]
        write_shard(tmp_path / "set" / shard_name(number), samples)
    write_index(tmp_path / "set", **ABOUT)
    index = DataSetIndex.load(tmp_path / "set")
    assert index.keys == [f"k{row}" for row in range(20)] and index.shard_counts == [10, 10]


@pytest.mark.parametrize("key", ["a.b", "", "a/b", "x" * 81, "ä"])
def test_keys_that_a_tar_cannot_hold_are_refused(tmp_path, key):
    with pytest.raises(AdhmrError, match="sample key"):
        write_shard(tmp_path / "000000.tar", [ShardSample(key, b"", new_record(), {})])
    assert list(tmp_path.iterdir()) == []


def test_repeated_keys_are_refused(tmp_path):
    sample = ShardSample("a", b"", new_record(), {})
    with pytest.raises(AdhmrError, match="twice"):
        write_shard(tmp_path / "000000.tar", [sample, sample])
    for number in range(2):
        write_shard(tmp_path / shard_name(number), [sample])
    with pytest.raises(AdhmrError, match=r"key a is in 000000\.tar and in 000001\.tar"):
        write_index(tmp_path, **ABOUT)


def test_damage_is_named(make_set, tmp_path):
    with pytest.raises(AdhmrError, match="is not a folder"):
        DataSetIndex.load(tmp_path / "nowhere")
    folder = make_set()
    shard = folder / shard_name(1)
    data = shard.read_bytes()
    shard.write_bytes(data[:-700])
    with pytest.raises(AdhmrError, match=rf"000001.tar has {len(data) - 700} bytes, index.json says {len(data)}"):
        DataSetIndex.load(folder)
    shard.unlink()
    with pytest.raises(AdhmrError, match=r"000001.tar is missing"):
        DataSetIndex.load(folder)
    shard.write_bytes(data)
    DataSetIndex.load(folder)
    texts = {"source": "a b", "split": "train", "licence": "CC0"}
    for versions, words in (
        (
            (1, 2),
            r"index version 1, .* reads 2; the shards can stay: run `adhmr .* --source 'a b' --split train ",
        ),
        ((1, 1), "schema version 1, .* reads 2: its shards must be made again"),
    ):
        document = dict(zip(("index_version", "schema_version"), versions)) | texts
        (folder / "index.json").write_text(json.dumps(document))
        with pytest.raises(AdhmrError, match=words):
            DataSetIndex.load(folder)
    (folder / "index.json").write_text("not json")
    with pytest.raises(AdhmrError, match="not an ADHMR index"):
        DataSetIndex.load(folder)


@pytest.mark.parametrize("kept", [0, 300, 5000, -10240, -11000])
def test_a_truncated_tar_is_not_indexed(make_set, kept):
    shard = make_set() / shard_name(0)
    whole, location = shard.read_bytes(), DataSetIndex.load(shard.parent).locate(9)
    shard.write_bytes(whole[:kept])
    with pytest.raises(AdhmrError, match="not a whole tar"):
        scan_shard(shard)
    shard.write_bytes(whole[: location.start])  # between two samples: every member that is there is whole
    with pytest.raises(AdhmrError, match="not a whole tar"):
        scan_shard(shard)


def test_one_flipped_bit_is_noticed(make_set):
    folder = make_set()
    index = DataSetIndex.load(folder)
    location = index.locate(3)
    with open(folder / location.shard, "r+b") as file:
        offset, size = location.members["jpg"]
        file.seek(location.start + offset + size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 4]))
    reader = ShardReader(folder)
    with pytest.raises(CorruptSampleError, match=r"data set alpha, 000000.tar, sample person-00003: .*checksum"):
        reader.read(3)
    assert reader.read(4).key == "person-00004"


def test_fingerprint_follows_the_content(make_set, tmp_path):
    one, same, other = make_set("one", 12), make_set("two", 12), make_set("three", 13)
    prints = [DataSetIndex.load(folder).fingerprint for folder in (one, same, other)]
    assert prints[0] == prints[1] != prints[2]


def test_readers_travel_to_other_processes(make_set):
    reader = ShardReader(make_set(), "renamed")
    reader.read(0)
    copy = pickle.loads(pickle.dumps(reader))
    assert copy.name == "renamed" and copy.read(7).key == reader.read(7).key
    assert len(copy) == 25
