"""adhmr data verify: every sort of damage is found and named; whole sets have no problems."""

import hashlib
import json
import shutil
import sys

import numpy as np
import pytest

from adhmr import cli
from adhmr.data.index import INDEX_NAME, KEYS_NAME, DataSetIndex, canonical_json
from adhmr.data.shard_index import sidecar_path
from adhmr.data.shard_writer import ShardWriter, shard_name
from adhmr.data.verify import record_problems, verify

ABOUT = {"source": "test", "split": "train", "licence": "CC0"}


def test_whole_sets_have_no_problems(make_set, studio_set):
    assert verify(make_set(count=25)) == [] and verify(studio_set, processes=2) == []
    assert verify(studio_set, quick=True) == []


def flip(folder, row, member):
    location = DataSetIndex.load(folder).locate(row)
    offset, size = location.members[member]
    with open(folder / location.shard, "r+b") as file:
        file.seek(location.start + offset + size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 4]))


def test_a_flipped_byte_is_found_in_the_shard_and_in_the_sample(make_set):
    folder = make_set(count=25)
    flip(folder, 13, "jpg")
    problems = verify(folder)
    assert [(problem.file, problem.key) for problem in problems] == [
        ("000001.tar", ""),
        ("000001.tar", "person-00013"),
    ]
    assert "its SHA-256 is" in problems[0].reason and "checksum" in problems[1].reason
    assert verify(folder, quick=True) == []  # it reads the first sample of a shard only


@pytest.mark.parametrize("quick", [False, True])
def test_missing_cut_and_foreign_files_are_found(make_set, quick):
    folder = make_set(count=35)
    (folder / shard_name(0)).unlink()
    cut = folder / shard_name(1)
    cut.write_bytes(cut.read_bytes()[:-3000])
    shutil.copy(sidecar_path(folder / shard_name(2)), sidecar_path(folder / shard_name(3)))
    found = {problem.file: problem.reason for problem in verify(folder, quick)}
    assert set(found) == {"000000.tar", "000001.tar", "000003.tar.idx"}
    assert "is missing" in found["000000.tar"] and "bytes, index.json says" in found["000001.tar"]
    assert "is of another shard" in found["000003.tar.idx"]


def test_damaged_tables_and_counts_are_found(make_set):
    folder = make_set(count=12)
    keys = folder / KEYS_NAME
    whole = keys.read_bytes()
    keys.write_bytes(whole[:-1] + b"?")
    assert [(problem.file, "SHA-256" in problem.reason) for problem in verify(folder)] == [(KEYS_NAME, True)]
    keys.write_bytes(whole)
    document = json.loads((folder / INDEX_NAME).read_bytes())
    (folder / INDEX_NAME).write_bytes(canonical_json({**document, "num_samples": 99}))
    assert [problem.reason for problem in verify(folder)] == ["says 99 samples, its shards 12"]


def test_a_key_that_comes_twice_is_found(make_set):
    folder = make_set(count=12)
    keys = folder / KEYS_NAME
    changed = keys.read_bytes().replace(b"person-00011", b"person-00003")
    keys.write_bytes(changed)
    document = json.loads((folder / INDEX_NAME).read_bytes())
    document["tables"][KEYS_NAME]["sha256"] = hashlib.sha256(changed).hexdigest()
    (folder / INDEX_NAME).write_bytes(canonical_json(document))
    assert [tuple(problem) for problem in verify(folder)] == [(KEYS_NAME, "person-00003", "is the key of 2 samples")]


def broken(record, field, value):
    changed = record.copy()
    changed[field] = value
    return changed


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("image_size", (3, 4), "image_size is"),
        ("joints_conf", 1.5, "joints_conf is not within"),
        ("twists_conf", np.nan, "twists_conf is not within"),
        ("joints_conf", 0, "no body joint"),
        ("joints29_px", np.inf, "joints29_px is not finite"),
        ("joints29_px", 1e4, "image sides outside"),
        ("intrinsics", np.zeros((3, 3)), "no focal length"),
        ("joints29", np.nan, "joints29 is not finite"),
        ("joints29", -1, "root depth is -1 m"),
        ("pose", 7.0, "beyond 2 pi"),
        ("transl", np.nan, "transl is not finite"),
        ("betas", 1e3, "betas are not finite or beyond"),
        ("twists", 0.1, "no cosine and sine"),
        ("joints17", np.inf, "joints17 is not finite"),
        ("has_pose", 7, "has_pose: expected 0 or 1"),
    ],
)
def test_labels_out_of_range_are_found(make_record, field, value, words):
    record = make_record(np.random.default_rng(0))
    shape = tuple(int(side) for side in record["image_size"])
    assert record_problems(record, shape) == []
    assert any(words in problem for problem in record_problems(broken(record, field, value), shape))


def test_what_a_record_does_not_know_is_not_judged(make_record):
    record = make_record(np.random.default_rng(0))
    shape = tuple(int(side) for side in record["image_size"])
    for flag, field in (("pose", "pose"), ("betas", "betas"), ("twists", "twists"), ("joints17", "joints17")):
        record[field], record[f"has_{flag}"] = np.nan, 0
    record["joints_conf"][5], record["joints29_px"][5], record["has_depth"] = 0, np.nan, 0
    assert record_problems(record, shape) == []


def test_the_command_lists_bad_samples_for_a_filter(tmp_path, make_record, monkeypatch, capsys):
    folder, listed = tmp_path / "people", tmp_path / "bad.txt"
    record = make_record(np.random.default_rng(0))
    with ShardWriter(folder, **ABOUT) as writer:
        writer.write("bad-label", b"no image", broken(record, "pose", np.nan), {})

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["adhmr", "data", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as leaving:
            return leaving.code, capsys.readouterr()
        return 0, capsys.readouterr()

    code, printed = command("verify", folder, "--list", listed)
    assert code == 1 and listed.read_text() == "bad-label\n"
    assert "000000.tar  bad-label  image: " in printed.out and "2 problems" in printed.out
    code, printed = command("filter", folder, "--exclude", listed)
    assert code == 2 and "the filter leaves none of 1 samples" in printed.err
    code, printed = command("filter", folder, "--min-box", 1)
    assert code == 0 and "1 samples are left" in printed.out
