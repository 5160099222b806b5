"""The manifest and the mapped tables: round trips, what is read lazily, what is refused."""

import json
import mmap
import pickle
import shutil
import subprocess
import tarfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adhmr.data.index import INDEX_NAME, KEYS_NAME, SAMPLES_NAME, DataSetIndex, canonical_json
from adhmr.data.index_build import rebuild_index, write_index
from adhmr.data.shard_index import ShardIndex, ShardIndexBuilder, read_sidecar, sample_dtype, scan_shard, sidecar_path
from adhmr.data.shard_reader import ShardReader
from adhmr.data.shard_writer import ShardWriter, shard_name
from adhmr.errors import AdhmrError

ABOUT = {"source": "test", "split": "train", "licence": "CC0"}

extensions = st.sampled_from(["jpg", "npy", "json", "pairs.npy", "cls"])
samples = st.lists(
    st.tuples(
        st.text("abcdefghij-_ä", min_size=1, max_size=12),
        st.lists(extensions, min_size=1, unique=True),
        st.integers(0, 2**32 - 1),
    ),
    min_size=1,
    max_size=20,
    unique_by=lambda sample: sample[0],
)


def sources_of(array: np.ndarray) -> mmap.mmap:
    """What an array's bytes belong to."""
    while isinstance(array, np.ndarray):
        array = array.base
    return array.obj if isinstance(array, memoryview) else array


@given(samples)
def test_a_sidecar_says_what_it_was_made_from(drawn):
    builder, position, expected = ShardIndexBuilder(), 0, []
    for key, names, crc32 in drawn:
        ranges, start = {}, position
        for number, name in enumerate(names):
            ranges[name] = (position + 512, 700 * number)
            position += 512 + 1024 * number
        builder.append(key, ranges, crc32)
        members = {name: (offset - start, size) for name, (offset, size) in ranges.items()}
        expected.append((key, start, max(sum(place) for place in members.values()), crc32, members))
    made = builder.finish("000000.tar", position, "ab" * 32)
    index = ShardIndex.decode("000000.tar", made.encode())
    assert (index.name, index.size, index.sha256) == ("000000.tar", position, "ab" * 32)
    assert index.encode() == made.encode() and index.key_list() == [sample[0] for sample in drawn]
    for row, (_, start, span, crc32, members) in zip(index.samples, expected, strict=True):
        assert (row["offset"], row["span"], row["crc32"]) == (start, span, crc32)
        places = dict(zip(index.extensions, row["members"].tolist(), strict=True))
        assert {name: tuple(place) for name, place in places.items() if place[0]} == members
    for cut in (0, 30, 64, len(made.encode()) - 1):
        with pytest.raises(ValueError):
            ShardIndex.decode("000000.tar", made.encode()[:cut])


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 3))
def test_rows_of_a_data_set_are_the_samples_of_its_shards_in_order(tmp_path_factory, make_record, counts, extras):
    from adhmr.data.shard_writer import ShardSample, write_shard

    folder, keys = tmp_path_factory.mktemp("set"), []
    record = make_record(np.random.default_rng(0))
    for number, count in enumerate(counts):
        drawn = [ShardSample(f"{'k' * (row + 1)}-{number}", b"jpeg", record, {"row": row}) for row in range(count)]
        for sample in drawn[:extras]:
            sample.extras["txt"] = sample.key.encode()
        keys += [sample.key for sample in drawn]
        write_shard(folder / shard_name(number), drawn)
    write_index(folder, **ABOUT)
    reader = ShardReader(folder)
    assert list(reader.index.keys) == keys == [reader.index.keys[row] for row in range(len(keys))]
    assert reader.index.shard_counts == counts and reader.index.num_samples == len(keys)
    assert reader.index.keys[-1] == keys[-1] and reader.index.keys[1:3] == keys[1:3]
    for row, key in enumerate(keys):
        members = reader.read_members(row)
        assert members["jpg"] == b"jpeg" and members.get("txt", key.encode()) == key.encode()
    for row in (-1, len(keys)):
        with pytest.raises(IndexError):
            reader.index.locate(row)


def test_sidecars_spare_a_rerun_the_scan(make_set, tmp_path, write_samples, monkeypatch):
    folder = tmp_path / "interrupted"
    with pytest.raises(KeyboardInterrupt), ShardWriter(folder, samples_per_shard=10, **ABOUT) as writer:
        write_samples(writer, 0, 17)
        raise KeyboardInterrupt
    monkeypatch.setattr("adhmr.data.index_build.scan_shard", lambda path: pytest.fail(f"{path} was scanned"))
    with ShardWriter(folder, samples_per_shard=10, **ABOUT) as writer:
        write_samples(writer, writer.completed_samples, 25)
    assert DataSetIndex.load(folder).fingerprint == DataSetIndex.load(make_set("whole", 25)).fingerprint


def test_the_sidecar_of_another_file_is_not_believed(make_set, tmp_path):
    folder, other = make_set("one", 10), make_set("two", 9)
    shard = folder / shard_name(0)
    shutil.copy(other / shard_name(0), shard)
    assert read_sidecar(shard) is None
    write_index(folder, **ABOUT)
    assert DataSetIndex.load(folder).fingerprint == DataSetIndex.load(other).fingerprint


def test_a_changed_shard_of_the_same_size_changes_the_fingerprint(make_set):
    folder = make_set(count=12)
    before = DataSetIndex.load(folder).fingerprint
    shard = folder / shard_name(1)
    data = bytearray(shard.read_bytes())
    data[DataSetIndex.load(folder).locate(11).start + 600] ^= 1
    shard.write_bytes(bytes(data))
    rebuild_index(folder, **ABOUT)
    index = DataSetIndex.load(folder)
    assert index.fingerprint != before
    assert read_sidecar(shard).encode() == scan_shard(shard).encode()


def million_rows(folder, rows=1_000_000, shards=100):
    """A data set as its manifest and sparse tables describe it; the shards are empty files of the recorded size."""
    folder.mkdir()
    dtype = sample_dtype(3)
    table = np.lib.format.open_memmap(folder / SAMPLES_NAME, "w+", dtype, (rows,))
    chosen = table[[-2, -1]]
    chosen["key_stop"], chosen["offset"], chosen["span"] = [8 * (rows - 1), 8 * rows], [4096, 8192], 3000
    chosen["members"] = [[512, 100], [1536, 200], [2560, 300]]
    table[[-2, -1]] = chosen
    keys = np.lib.format.open_memmap(folder / KEYS_NAME, "w+", np.uint8, (8 * rows,))
    keys[-8:] = np.frombuffer(b"last-key", np.uint8)
    del table, keys
    entries = []
    for number in range(shards):
        with open(folder / shard_name(number), "wb") as file:
            file.truncate(2**20)
        entries.append({"name": shard_name(number), "size": 2**20, "samples": rows // shards, "sha256": "0" * 64})
    tables = {name: {"size": (folder / name).stat().st_size, "sha256": "0" * 64} for name in (SAMPLES_NAME, KEYS_NAME)}
    document = {"index_version": 2, "schema_version": 2, **ABOUT, "num_samples": rows, "tables": tables}
    document |= {"extensions": ["jpg", "json", "npy"], "shards": entries}
    (folder / INDEX_NAME).write_bytes(canonical_json(document))
    return folder


def test_a_large_index_is_mapped_and_never_read_whole(tmp_path, monkeypatch):
    folder = million_rows(tmp_path / "large")
    index = DataSetIndex.load(folder)
    location = index.locate(999_999)
    assert location.shard == shard_name(99) and (location.start, location.span) == (8192, 3000)
    assert location.members == {"jpg": (512, 100), "json": (1536, 200), "npy": (2560, 300)}
    assert index.keys[-1] == "last-key" and len(index.keys) == 1_000_000
    for array in (index.samples, index.key_bytes):
        assert isinstance(sources_of(array), mmap.mmap)  # not a copy: the page cache is shared by all processes
    sent = pickle.dumps(index)
    assert len(sent) < 100 * 200 and DataSetIndex.load(folder).fingerprint == pickle.loads(sent).fingerprint
    assert pickle.loads(sent).locate(999_999) == location


def test_tables_that_do_not_fit_the_manifest_are_refused(make_set):
    folder = make_set(count=12)
    table = folder / SAMPLES_NAME
    whole = table.read_bytes()
    table.write_bytes(whole[:-1])
    with pytest.raises(AdhmrError, match=r"index-samples.npy has \d+ bytes, index.json says"):
        DataSetIndex.load(folder)
    table.write_bytes(b"?" * len(whole))
    with pytest.raises(AdhmrError, match=r"index-samples.npy cannot be read .*adhmr data index"):
        DataSetIndex.load(folder).locate(0)
    table.unlink()
    with pytest.raises(AdhmrError, match=r"index-samples.npy is missing"):
        DataSetIndex.load(folder)


def test_a_folder_of_another_tar_writer_is_indexed(make_set, tmp_path):
    unpacked, folder = tmp_path / "unpacked", tmp_path / "foreign"
    unpacked.mkdir(), folder.mkdir()
    source = make_set(count=10)
    with tarfile.open(source / shard_name(0)) as tar:
        tar.extractall(unpacked, filter="data")
    subprocess.run(["tar", "-cf", folder / "people.tar", "--sort=name", "-C", unpacked, "."], check=True)
    rebuild_index(folder, **ABOUT)
    made, reader = ShardReader(folder), ShardReader(source)
    assert made.index.keys == reader.index.keys
    for row in range(10):
        assert made.read(row).record == reader.read(row).record


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        ("no labels", r"sample a has members \['cls', 'jpg'\]; a sample needs a.jpg .* and a.npy"),
        ("other labels", "a.npy is not one SAMPLE_DTYPE record"),
        ("compressed", r"people.tar.gz is compressed .* unpack it to a plain .tar"),
        ("compressed, called .tar", r"people.tar is compressed \(gzip\)"),
        ("no folder", "is not a folder"),
        ("empty", "holds no samples"),
    ],
)
def test_folders_that_cannot_be_indexed(tmp_path, problem, words):
    folder = tmp_path / "foreign"
    if problem != "no folder":
        folder.mkdir()
    mode, name = ("w:gz", "people.tar.gz") if problem.startswith("compressed") else ("w", "people.tar")
    if "called" in problem:
        name = "people.tar"
    if problem not in ("no folder", "empty"):
        np.save(tmp_path / "a.npy", np.zeros(3))
        (tmp_path / "a.jpg").write_bytes(b"?"), (tmp_path / "a.cls").write_bytes(b"1")
        second = "a.npy" if problem == "other labels" else "a.cls"
        with tarfile.open(folder / name, mode) as tar:
            tar.add(tmp_path / "a.jpg", "a.jpg"), tar.add(tmp_path / second, second)
    with pytest.raises(AdhmrError, match=words):
        rebuild_index(folder, **ABOUT)
    assert not (folder / INDEX_NAME).exists()


def test_an_older_index_is_refused_with_the_command_that_rebuilds_it(make_set):
    folder = make_set(count=12)
    (folder / INDEX_NAME).write_text(json.dumps({"index_version": 1, "schema_version": 2, **ABOUT, "shards": []}))
    with pytest.raises(AdhmrError, match=r"index version 1, this adhmr reads 2") as caught:
        DataSetIndex.load(folder)
    assert f"`adhmr data index {folder} --source test --split train --licence CC0`" in str(caught.value)
    rebuild_index(folder, **ABOUT, processes=2)
    assert ShardReader(folder).read(11).key == "person-00011"
    assert sidecar_path(folder / shard_name(0)).exists()
