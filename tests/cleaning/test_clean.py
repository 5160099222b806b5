"""The cleaning stage: which labels are kept, what is written, and that a rerun gives the same bytes."""

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pydantic import ValidationError

from adhmr.cleaning.clean import clean_set, kept_rows, run_stage
from adhmr.cleaning.scoring import LabelScorer
from adhmr.config.data import CropConfig, DataConfig
from adhmr.config.model import ScorerConfig
from adhmr.config.stages import CleanStage
from adhmr.data.randomness import RandomKey
from adhmr.data.schema import decode_record, encode_record
from adhmr.data.shard_reader import ShardReader
from adhmr.data.shard_writer import ShardWriter
from adhmr.data.stream import collate, iterate_set, make_plan
from adhmr.data.transforms import PersonCrop
from adhmr.errors import AdhmrError
from adhmr.models.scorer import HMRScorer
from adhmr.models.weights import load_model, save_weights, weights_hash
from adhmr.preference.noised_truth import noised_truth
from tests.tiny import CROP, SCORER, TRANSFORMER

INDEX_FILES = {"index.json", "index-keys.npy", "index-samples.npy"}
VIT = {"neck": "vit", "depth": 1, "dim": 48, "heads": 3, "input_size": (64, 48), "task_tokens": 3}


@pytest.fixture
def config(tmp_path, studio_set, tiny_weights):
    def make(**changes) -> CleanStage:
        values = {
            "stage": "clean",
            "output": tmp_path / "clean",
            "scorer": tiny_weights / "scorer.safetensors",
            "sets": [studio_set],
            "padding": CROP["padding"],
            "percentile": 30,
            "images_per_batch": 3,
            "unit": 4,
            "pictures": 3,
        }
        return CleanStage(**{**values, **changes})

    return make


def copied(source: Path, folder: Path, change) -> Path:
    """The set with each sample's (key, image, record) as `change` gives it."""
    reader = ShardReader(source)
    with ShardWriter(folder, source="copy", split="train", licence="none", samples_per_shard=4) as writer:
        for row, key in enumerate(reader.index.keys):
            members = reader.read_members(row)
            image, record = change(row, members["jpg"], decode_record(members["npy"]))
            writer.write(key, image, record, json.loads(members["json"]))
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


# ------------------------------------------------------------------------------------------------ what is kept
def test_a_threshold_is_of_the_score_and_a_percentile_of_the_set():
    raw = np.float32([0.09, 0.0810, 0.0811, -1.0, np.nan, 3.0])  # sigmoid(5 x 0.0811) is just above 0.6
    assert kept_rows(raw, 0.6, None).tolist() == [True, False, True, False, False, True]
    assert kept_rows(raw, None, 40.0).tolist() == [True, False, True, False, False, True]
    assert kept_rows(raw, None, 0.0).tolist() == [True, True, True, True, False, True]
    assert kept_rows(raw, 0.0, None).sum() == 5  # never one without a score


def test_there_is_one_limit_and_one_folder_a_set(config, studio_set):
    for limits in ({"percentile": None}, {"threshold": 0.6}):
        with pytest.raises(ValidationError, match=r"expected one of threshold .* and percentile"):
            config(**limits)
    with pytest.raises(ValidationError, match="two sets are called studio"):
        config(sets=[studio_set, studio_set])


# ------------------------------------------------------------------------------------------------ what is written
def test_a_cleaned_set_is_the_kept_samples_and_says_what_was_done(config, studio_set, tiny_weights, capsys):
    stage = config()
    run_stage(stage)
    folder, source = stage.output / "studio", ShardReader(studio_set)
    made = ShardReader(folder)
    with np.load(folder / "scores.npz") as stored:
        keys, raw, score, kept = (stored[name] for name in ("keys", "raw", "score", "kept"))
    assert keys.tolist() == source.index.keys
    np.testing.assert_allclose(score, 1 / (1 + np.exp(-5 * raw)), rtol=1e-5)
    assert kept.sum() == 7 and raw[kept].min() > raw[~kept].max()
    assert made.index.keys == keys[kept].tolist() == (folder / "kept.txt").read_text().split()
    assert made.index.shard_counts == [4, 3] and made.index.split == source.index.split
    for row, original in enumerate(np.flatnonzero(kept)):
        ours, theirs = made.read_members(row), source.read_members(original)
        assert ours["jpg"] == theirs["jpg"] and ours["npy"] == theirs["npy"]
        provenance = json.loads(ours["json"])
        assert provenance.pop("cleaning") == {
            "scorer": weights_hash(tiny_weights / "scorer.safetensors"),
            "threshold": None,
            "percentile": 30.0,
            "score": float(score[original]),
        }
        assert provenance == json.loads(theirs["json"])
    figures = json.loads((folder / "statistics.json").read_text())
    assert (figures["labels"], figures["kept"], figures["dropped"], figures["unusable"]) == (10, 7, 3, 0)
    assert sum(figures["histogram"]) == 10
    table = (stage.output / "table.txt").read_text()
    assert "70.0%" in table and table in capsys.readouterr().out
    assert json.loads((stage.output / "figures.json").read_text())["sets"] == [figures]
    side = 3 * CROP["size"] + 2  # enlarged, so that there is room for the captions
    for name in ("kept", "dropped"):  # a line each of the highest, the middle and the lowest scores
        assert cv2.imread(str(folder / f"{name}.jpg")).shape == (3 * side + 2, 8 * side + 2, 3)
    beside = {*INDEX_FILES, "cleaning.json", "kept.txt", "scores.npz", "statistics.json"}
    beside |= {"kept.jpg", "dropped.jpg", "histogram.png"}
    sidecars = {f"{name}.idx" for name in made.index.shard_names}
    assert set(digests(folder)) == beside | sidecars | set(made.index.shard_names)


def test_a_cleaned_set_trains_like_any_other(config):
    run_stage(config())
    folder = config().output / "studio"
    data = DataConfig(sets=[{"path": str(folder)}], crop=CROP, period=8)
    plan = make_plan([ShardReader(folder)], data, seed=0)
    assert {plan.sample_at(position)[2] for position in range(7)} == set(range(7))
    batches = list(iterate_set(folder, PersonCrop(data.crop), batch=4))
    assert [len(batch["key"]) for batch in batches] == [4, 3]


def test_a_rerun_scores_only_what_is_missing_and_gives_the_same_bytes(config, monkeypatch):
    run_stage(config())
    folder = config().output / "studio"
    first = digests(folder)
    units = []
    real = LabelScorer.raw_scores

    def counted(self, reader, rows, quarantine):
        units.append(rows)
        if len(units) == 2:
            raise KeyboardInterrupt
        return real(self, reader, rows, quarantine)

    monkeypatch.setattr(LabelScorer, "raw_scores", counted)
    run_stage(config())
    assert units == [] and digests(folder) == first
    again = config(output=config().output.with_name("again"))
    with pytest.raises(KeyboardInterrupt):
        run_stage(again)
    run_stage(again)
    assert units == [range(0, 4), range(4, 8), range(4, 8), range(8, 10)]
    for name in ("000001.tar", "index.json"):
        (again.output / "studio" / name).unlink()
    run_stage(again)
    assert digests(again.output / "studio") == first and len(units) == 4


def test_shards_of_two_limits_never_mix(config):
    run_stage(config())
    with pytest.raises(AdhmrError, match=r"cleaning.json: percentile is 30.0, asked for 50.0; choose another folder"):
        run_stage(config(percentile=50))


def test_nothing_kept_is_an_error_that_says_how_good_the_best_is(config):
    with pytest.raises(AdhmrError, match=r"studio: no label is kept \(the best score is 0\.\d+\); see .*scores.npz"):
        run_stage(config(percentile=None, threshold=1.0))


# ------------------------------------------------------------------------------------------------ scores
@pytest.mark.parametrize("variant", ["uvd", "2d", "pose6d", "uvd_twist", "tall"])
def test_a_label_is_scored_like_a_hypothesis_that_is_not_disturbed(config, studio_set, tmp_path, body, variant):
    if variant == "tall":
        values = {"encoder": VIT, "crop_size": 128, "crop_aspect": 0.75, "hidden_dims": [256, 32], **TRANSFORMER}
    else:
        values = {**SCORER, "variant": variant, "relative": variant != "pose6d"}
    model = ScorerConfig(**values)
    path = tmp_path / "scorer.safetensors"
    save_weights(path, HMRScorer(model), "scorer", model.model_dump(mode="json"))
    scorer, reader = LabelScorer(config(scorer=path)), ShardReader(studio_set)
    raw = scorer.raw_scores(reader, range(2, 7), tmp_path / "quarantine.jsonl")
    crop = PersonCrop(CropConfig(size=model.crop_size, aspect=model.crop_aspect, padding=CROP["padding"]))
    batch = collate([crop(reader.read(row), RandomKey(0, row)) for row in range(2, 7)])
    truth = noised_truth(body, body, batch, torch.zeros(5, 1, 85))
    with torch.no_grad():
        expected = load_model(path, "scorer")(batch["image"], truth.hypotheses)[1][:, 0]
    np.testing.assert_allclose(raw, expected, atol=1e-5)
    assert not (tmp_path / "quarantine.jsonl").exists()


def test_samples_that_cannot_be_used_are_left_out_and_noted(config, studio_set, tmp_path):
    def spoil(row, image, record):
        if row == 5:
            record["joints_conf"] = 0
        return (b"no picture" if row == 1 else image), record

    folder = copied(studio_set, tmp_path / "spoilt", spoil)
    stage = config(sets=[folder])
    figures = clean_set(LabelScorer(stage), folder, stage)
    assert (figures["unusable"], figures["kept"], figures["dropped"]) == (2, 5, 5)
    lines = (stage.output / "spoilt" / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == [ShardReader(studio_set).index.keys[row] for row in (1, 5)]


def test_crops_are_padded_as_the_scorer_learnt(config, tmp_path):
    model, path = HMRScorer(ScorerConfig(**SCORER)), tmp_path / "scorer.safetensors"
    settings = (model, "scorer", model.config.model_dump(mode="json"))
    save_weights(path, *settings)
    with pytest.raises(AdhmrError, match="does not say how large its crops were; set padding"):
        LabelScorer(config(scorer=path, padding=None))
    save_weights(path, *settings, {"crop_padding": 1.4})
    assert LabelScorer(config(scorer=path, padding=None)).crop.crop.padding == 1.4
    assert LabelScorer(config(scorer=path)).crop.crop.padding == CROP["padding"]


def test_a_set_without_labels_of_bodies_is_refused(config, studio_set, tmp_path):
    def flat(row, image, record):
        record["has_pose"] = record["has_depth"] = 0
        return image, decode_record(encode_record(record))

    with pytest.raises(AdhmrError, match="its label has no pose and no depth"):
        run_stage(config(sets=[copied(studio_set, tmp_path / "flat", flat)]))


def test_a_scorer_that_went_wrong_is_refused(config, studio_set, tmp_path):
    model = HMRScorer(ScorerConfig(**SCORER))
    with torch.no_grad():
        model.head.score[-1].bias.fill_(float("nan"))
    save_weights(tmp_path / "bad.safetensors", model, "scorer", model.config.model_dump(mode="json"))
    with pytest.raises(AdhmrError, match=r"bad.safetensors: the score of studio, sample .* is not a number"):
        run_stage(config(scorer=tmp_path / "bad.safetensors"))
