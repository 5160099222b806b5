"""Filters: what each predicate leaves, tables that are named by all they depend on, filtered sets as data sets."""

import pickle

import numpy as np
import pytest
from pydantic import ValidationError

from adhmr.config.data import DataConfig, FilterConfig
from adhmr.data.filters import box_side, build_filter, visible_joints
from adhmr.data.index import DataSetIndex
from adhmr.data.shard_reader import ShardReader
from adhmr.data.stream import make_plan, open_sets
from adhmr.errors import AdhmrError
from tests.data.test_verify import flip


@pytest.fixture
def people(make_set):
    return make_set("people", 25)


@pytest.fixture
def scores(people, tmp_path):
    """Scores as a clean stage writes them: 0.00, 0.04, ... by row, the last one without a score."""
    keys = np.array(DataSetIndex.load(people).keys)
    score = np.where(np.arange(25) < 24, np.arange(25) / 25, np.nan)
    np.savez_compressed(tmp_path / "scores.npz", keys=keys, raw=score, score=score, kept=score >= 0.5)
    return tmp_path / "scores.npz"


def test_predicates_leave_the_rows_that_they_say(people, scores, tmp_path):
    reader = ShardReader(people)
    records = [reader.read_record(row) for row in range(25)]
    sides, visible = [box_side(record) for record in records], [visible_joints(record) for record in records]
    (tmp_path / "bad.txt").write_text("person-00003\nperson-00020\n")
    limits = float(np.median(sides)), int(np.median(visible))
    for filter, expected in (
        (FilterConfig(min_box=limits[0]), [side >= limits[0] for side in sides]),
        (FilterConfig(min_joints=limits[1]), [count >= limits[1] for count in visible]),
        (FilterConfig(min_score=0.5, scores=str(scores)), [12 < row < 24 for row in range(25)]),
        (FilterConfig(exclude=str(tmp_path / "bad.txt")), [row not in (3, 20) for row in range(25)]),
        (
            FilterConfig(min_box=limits[0], min_score=0.2, scores=str(scores), exclude=str(tmp_path / "bad.txt")),
            [side >= limits[0] and 4 < row < 24 and row != 20 for row, side in enumerate(sides)],
        ),
    ):
        rows = np.flatnonzero(expected)
        assert 0 < len(rows) < 25
        index = build_filter(people, filter)
        assert index.keys == [f"person-{row:05d}" for row in rows] and index.num_samples == len(rows)
        assert index.shard_counts == [int(((rows >= first) & (rows < first + 10)).sum()) for first in (0, 10, 20)]
        filtered = ShardReader(people, filter=filter)
        for number, row in enumerate(rows):
            assert filtered.read(number).key == f"person-{row:05d}" and filtered.read_record(number) == records[row]
        with pytest.raises(IndexError):
            filtered.read(len(rows))
        assert pickle.loads(pickle.dumps(filtered)).index.keys == index.keys


def test_box_and_visibility_count_what_is_known(make_record):
    record = make_record(np.random.default_rng(0))
    record["joints_conf"][:24], record["joints29_px"][:24] = 0, np.nan
    assert (box_side(record), visible_joints(record)) == (0, 0)
    for joint, point in ((0, (10, 20)), (3, (40, 70)), (7, (-5, 30))):
        record["joints_conf"][joint], record["joints29_px"][joint] = 0.5, point
    assert (box_side(record), visible_joints(record)) == (50, 2)


def test_a_filter_that_is_not_built_names_the_command(people, scores):
    filter = FilterConfig(min_box=30, min_score=0.5, scores=str(scores))
    with pytest.raises(AdhmrError, match="was not built") as caught:
        ShardReader(people, filter=filter)
    expected = f"`adhmr data filter {people} --min-box 30.0 --min-score 0.5 --scores {scores}`"
    assert expected in str(caught.value)


def test_a_table_is_of_its_predicates_files_and_data(people, scores, tmp_path, make_set):
    filter = FilterConfig(min_score=0.5, scores=str(scores))
    built = build_filter(people, filter, processes=2)
    tables = sorted(people.glob("index-*"))
    build_filter(people, filter)
    assert sorted(people.glob("index-*")) == tables
    moved = tmp_path / "elsewhere.npz"
    moved.write_bytes(scores.read_bytes())  # the same scores under another name are the same filter
    assert DataSetIndex.load(people, filter=filter.model_copy(update={"scores": str(moved)})).keys == built.keys
    plain = DataSetIndex.load(people)
    other = build_filter(people, FilterConfig(min_score=0.6, scores=str(scores)))
    assert len({plain.fingerprint, built.fingerprint, other.fingerprint}) == 3
    changed = np.load(scores)
    np.savez_compressed(scores, **{**changed, "score": changed["score"] / 2})
    with pytest.raises(AdhmrError, match="was not built"):
        DataSetIndex.load(people, filter=filter)


def test_mistakes_are_named(people, scores, tmp_path, make_set):
    (tmp_path / "bad.txt").write_text("nobody\n")
    other = make_set("other", 26)
    for folder, filter, words in (
        (people, FilterConfig(min_box=1e6), "leaves none of 25 samples"),
        (people, FilterConfig(exclude=str(tmp_path / "none.txt")), "none.txt cannot be read"),
        (people, FilterConfig(exclude=str(tmp_path / "bad.txt")), "none of its 1 lines is a key"),
        (people, FilterConfig(min_score=0.5, scores=str(tmp_path / "bad.txt")), "is not the scores.npz"),
        (other, FilterConfig(min_score=0.5, scores=str(scores)), "has no score of sample 'person-00025'"),
    ):
        with pytest.raises(AdhmrError, match=words):
            build_filter(folder, filter)
    for values in ({}, {"min_score": 0.5}, {"scores": "x"}, {"min_box": 0}):
        with pytest.raises(ValidationError):
            FilterConfig(**values)


def test_a_damaged_sample_ends_the_building_unless_it_is_excluded(people, tmp_path):
    flip(people, 13, "jpg")
    with pytest.raises(AdhmrError, match=r"person-00013.*adhmr data verify .* --list FILE"):
        build_filter(people, FilterConfig(min_box=1))
    (tmp_path / "bad.txt").write_text("person-00013\n")
    assert build_filter(people, FilterConfig(min_box=1, exclude=str(tmp_path / "bad.txt"))).num_samples == 24


def test_training_draws_from_the_filtered_rows(people, scores):
    filter = {"min_score": 0.5, "scores": str(scores)}
    build_filter(people, FilterConfig(**filter))
    config = DataConfig(sets=[{"path": str(people), "filter": filter}])
    readers = open_sets(config)
    plan = make_plan(readers, config, seed=0)
    drawn = [readers[0].index.keys[plan.sample_at(position)[2]] for position in range(11)]
    assert sorted(drawn) == [f"person-{row:05d}" for row in range(13, 24)]
