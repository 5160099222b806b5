import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from adhmr.body.camera import project
from adhmr.config.data import CropConfig
from adhmr.config.generation import GenerateStage
from adhmr.config.model import ScorerConfig
from adhmr.data.randomness import RandomKey
from adhmr.data.shard_reader import ShardReader
from adhmr.data.shard_writer import ShardWriter
from adhmr.data.transforms import PersonCrop
from adhmr.errors import AdhmrError
from adhmr.models.scorer import HMRScorer
from adhmr.models.weights import save_weights, weights_hash
from adhmr.preference import generate, sharing
from adhmr.preference.generate import run_stage
from adhmr.preference.pairing import truth_record
from tests.tiny import CROP, SCORER


def make_config(output: Path, tiny_weights: Path, studio_set: Path, rankings=("error",), **changes) -> GenerateStage:
    values = {
        "stage": "generate",
        "output": output,
        "base": tiny_weights / "base.safetensors",
        "scorer": tiny_weights / "scorer.safetensors",
        "sets": [{"path": studio_set, "rankings": list(rankings)}],
        "crop": CROP,
        "hypotheses": 6,
        "pairs": 2,
        "images_per_batch": 3,
        "unit": 4,
    }
    return GenerateStage(**{**values, **changes})


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.tar"))}


@pytest.mark.parametrize("ranking", ["error", "scorer", "random"])
def test_what_a_preference_set_holds(preferences, studio_set, tiny_weights, ranking):
    source, made = ShardReader(studio_set), ShardReader(preferences / f"studio-{ranking}")
    assert made.index.shard_counts == [4, 4, 2] and made.index.keys == source.index.keys
    for row in range(len(made)):
        sample, original = made.read(row), source.read(row)
        pairs = sample.extras["pairs.npy"]
        assert len(pairs) == 2 and sample.image.shape == (CROP["size"], CROP["size"], 3)
        assert (pairs["winner_value"] >= pairs["loser_value"]).all()
        assert not set(pairs["winner_index"]) & set(pairs["loser_index"])
        if ranking == "error":
            np.testing.assert_array_equal(pairs["winner_error"], -pairs["winner_value"])
        assert np.isfinite(pairs["winner_error"]).all()  # labels are exact, so errors are known for every ranking
        # The label moved into the frame of the crop that is stored.
        crop = PersonCrop(CropConfig(**CROP), None)(original, RandomKey(0, row))
        np.testing.assert_array_equal(sample.record["joints29_px"], crop["uvd"][:, :2])
        assert np.abs(sample.image.astype(int) - crop["image"].transpose(1, 2, 0)).mean() < 4  # a JPEG of that crop
        pixels = project(sample.record["joints29"], sample.record["intrinsics"])
        np.testing.assert_allclose(sample.record["joints29_px"], pixels, atol=0.02)
        np.testing.assert_array_equal(sample.record["pose"], original.record["pose"])
        provenance = sample.provenance
        assert provenance["base"] == weights_hash(tiny_weights / "base.safetensors")
        assert (provenance["ranking"], provenance["hypotheses"], provenance["dataset"]) == (ranking, 6, "studio")
        assert provenance["source"] == original.provenance
        affine = np.array(provenance["affine"])  # stored image to crop
        moved = original.record["joints29_px"] @ affine[:, :2].T + affine[:, 2]
        np.testing.assert_allclose(sample.record["joints29_px"], moved, atol=0.02)
        assert sample.extras["features.npy"]["joints2d"].shape == (29, 2)


def test_rankings_of_one_image_choose_among_the_same_hypotheses(preferences):
    by_index = {}
    for ranking in ("error", "scorer", "random"):
        pairs = ShardReader(preferences / f"studio-{ranking}").read(5).extras["pairs.npy"]
        for side in ("winner", "loser"):
            for index, uvd in zip(pairs[f"{side}_index"], pairs[f"{side}_uvd"]):
                np.testing.assert_array_equal(by_index.setdefault(int(index), uvd), uvd)
    assert len(by_index) > 4  # the rankings do not agree on everything


def test_statistics_beside_the_shards(preferences):
    figures = json.loads((preferences / "studio-error" / "statistics.json").read_text())
    assert (figures["images"], figures["pairs"], figures["right_order"]) == (10, 20, 1.0)
    assert figures["winner_pve_mm"] < figures["loser_pve_mm"]


def test_the_same_units_have_the_same_bytes_and_only_missing_ones_are_made(
    tmp_path, preferences, tiny_weights, studio_set, monkeypatch
):
    output = tmp_path / "again"
    config = make_config(output, tiny_weights, studio_set, ["error", "scorer", "random"])
    shutil.copytree(preferences, output)
    for path in (output / "studio-error" / "index.json", output / "studio-scorer" / "000001.tar"):
        path.unlink()
    units = []
    real = generate.Generator.batches

    def counted(self, reader, rows, rankings):
        units.append(rows)
        return real(self, reader, rows, rankings)

    monkeypatch.setattr(generate.Generator, "batches", counted)
    run_stage(config)
    assert units == [range(4, 8)]
    for ranking in ("error", "scorer", "random"):
        name = f"studio-{ranking}"
        assert digests(output / name) == digests(preferences / name) and len(digests(output / name)) == 3
        assert (output / name / "index.json").read_bytes() == (preferences / name / "index.json").read_bytes()


def test_limit_margin_and_features_switched_off(tmp_path, tiny_weights, studio_set, preferences):
    everything = [ShardReader(preferences / "studio-error").read(row).extras["pairs.npy"] for row in range(10)]
    gaps = np.sort(np.concatenate([pairs["winner_value"] - pairs["loser_value"] for pairs in everything]))
    sets = [{"path": studio_set, "rankings": ["error"], "limit": 8}]
    margin = float(gaps[len(gaps) // 2])
    run_stage(make_config(tmp_path, tiny_weights, studio_set, sets=sets, margin={"error": margin}, features="none"))
    made = ShardReader(tmp_path / "studio-error")
    pairs = [made.read(row).extras["pairs.npy"] for row in range(len(made))]
    assert set(made.index.keys) <= set(ShardReader(studio_set).index.keys[:8])
    assert all((one["winner_value"] - one["loser_value"] >= margin).all() and len(one) for one in pairs)
    assert 0 < sum(map(len, pairs)) < 16
    assert "features.npy" not in made.read(0).extras


def test_another_crop_size_is_refused(tmp_path, tiny_weights, studio_set):
    with pytest.raises(AdhmrError, match=r"crop.size is 128, but .*base.safetensors was trained on crops of 64 px"):
        run_stage(make_config(tmp_path, tiny_weights, studio_set, crop={"size": 128}))


def test_the_scorer_ranking_without_a_scorer_is_refused(tmp_path, tiny_weights, studio_set):
    with pytest.raises(ValidationError, match="needs a reward model"):
        make_config(tmp_path, tiny_weights, studio_set, ["scorer"], scorer=None)


@pytest.mark.parametrize(("rank", "visible", "expected"), [(None, 8, 0), ("3", 8, 3), ("3", 1, 0)])
def test_a_worker_takes_the_gpu_of_its_number(rank, visible, expected, monkeypatch):
    taken = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: visible)
    monkeypatch.setattr("torch.cuda.set_device", taken.append)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert str(sharing.own_device()) == f"cuda:{expected}" and taken == [expected]


def test_two_sets_of_one_name_are_refused(tmp_path, tiny_weights, studio_set):
    sets = [{"path": studio_set, "rankings": ["error"]}, {"path": studio_set, "rankings": ["random", "error"]}]
    with pytest.raises(ValidationError, match="two make the folder studio-error"):
        make_config(tmp_path, tiny_weights, studio_set, sets=sets)


def test_shards_of_other_settings_never_mix(tmp_path, preferences, tiny_weights, studio_set):
    shutil.copytree(preferences / "studio-error", tmp_path / "studio-error")
    (tmp_path / "studio-error" / "000001.tar").unlink()
    for change, message in (
        ({"pairs": 1}, "pairs is 2, asked for 1"),
        ({"sampler": {"eta": 0.5}}, r"sampler is .*'eta': 0.0.*, asked for .*'eta': 0.5"),
        ({"ik": "adaptive"}, "ik is 'naive', asked for 'adaptive'"),
    ):
        with pytest.raises(AdhmrError, match=message):
            run_stage(make_config(tmp_path, tiny_weights, studio_set, **change))


def test_a_scorer_of_rotations_ranks_posed_hypotheses_also_where_the_depth_is_unknown(
    tmp_path, tiny_weights, studio_set
):
    config = ScorerConfig(**{**SCORER, "variant": "pose6d", "relative": False})
    scorer = tmp_path / "scorer.safetensors"
    save_weights(scorer, HMRScorer(config), "scorer", config.model_dump(mode="json"))
    flat, reader = tmp_path / "flat", ShardReader(studio_set)
    with ShardWriter(flat, source="test", split="train", licence="CC0", samples_per_shard=4) as writer:
        for row in range(4):
            sample = reader.read(row)
            sample.record["has_depth"], sample.record["joints29"][:, 2] = 0, 0
            writer.write(sample.key, cv2.imencode(".jpg", sample.image)[1].tobytes(), sample.record, {})
    for data in (studio_set, flat):
        run_stage(make_config(tmp_path, tiny_weights, data, ["scorer"], scorer=scorer))
        pairs = ShardReader(tmp_path / f"{data.name}-scorer").read(0).extras["pairs.npy"]
        assert np.isfinite(pairs["winner_value"]).all() and (pairs["winner_value"] > pairs["loser_value"]).all()


# ------------------------------------------------------------------------------------------------ labels as winners
def test_the_truth_wins_over_the_zero_noise_hypothesis(tmp_path, preferences, tiny_weights, studio_set):
    run_stage(make_config(tmp_path, tiny_weights, studio_set, ["truth"], hypotheses=1))
    made, source = ShardReader(tmp_path / "studio-truth"), ShardReader(studio_set)
    assert made.index.keys == source.index.keys
    zero_noise = {}
    for row in range(len(made)):
        for ranking in ("error", "random", "scorer"):
            for pair in ShardReader(preferences / f"studio-{ranking}").read(row).extras["pairs.npy"]:
                for side in ("winner", "loser"):
                    if pair[f"{side}_index"] == 0:
                        zero_noise[row] = pair[f"{side}_uvd"], pair[f"{side}_error"]
    assert zero_noise
    for row in range(len(made)):
        sample = made.read(row)
        (pair,) = sample.extras["pairs.npy"]
        label = PersonCrop(CropConfig(**CROP), None)(source.read(row), RandomKey(0, row))
        np.testing.assert_array_equal(pair["winner_uvd"], label["uvd"])
        np.testing.assert_array_equal(pair["winner_twists"], label["twists"])
        assert (pair["winner_index"], pair["loser_index"]) == (65535, 0) and sample.provenance["ranking"] == "truth"
        assert pair["winner_value"] == pair["winner_error"] == 0 < pair["loser_error"] == -pair["loser_value"]
        if row in zero_noise:
            uvd, error = zero_noise[row]
            np.testing.assert_allclose(pair["loser_uvd"], uvd, atol=1e-3)
            np.testing.assert_allclose(pair["loser_error"], error, atol=1e-5)
    figures = json.loads((tmp_path / "studio-truth" / "statistics.json").read_text())
    assert figures["pairs"] == 10 and figures["winner_pve_mm"] == 0 and figures["right_order"] == 1.0


def test_a_truth_that_is_not_whole_is_left_out_and_one_without_twists_refused(studio_set):
    sample = ShardReader(studio_set).read(0)
    crop = PersonCrop(CropConfig(**CROP), None)

    def pair(margin=0.0, error=0.1, **changes):
        record = sample.record.copy()
        for name, value in changes.items():
            record[name] = value
        label = crop(replace(sample, record=record), RandomKey(0, 0))
        return truth_record(label, np.zeros((29, 3)), np.zeros((23, 2)), error, margin)

    assert len(pair()) == 1 and len(pair(margin=0.2)) == 0
    assert len(pair(joints_conf=np.arange(29) != 5)) == len(pair(twists_conf=np.arange(23) != 5)) == 0
    with pytest.raises(AdhmrError, match=f"sample {sample.key}: its label has no twists"):
        pair(has_twists=0)


def test_one_hypothesis_is_for_the_truth_alone(tmp_path, tiny_weights, studio_set):
    with pytest.raises(ValidationError, match="hypotheses is 1, but ranking error compares two"):
        make_config(tmp_path, tiny_weights, studio_set, ["truth", "error"], hypotheses=1)


def test_a_stride_takes_every_so_many_th_image(tmp_path, tiny_weights, studio_set):
    sets = [{"path": studio_set, "rankings": ["random"], "stride": 3, "limit": 3}]
    run_stage(make_config(tmp_path, tiny_weights, studio_set, sets=sets, unit=2))
    made = ShardReader(tmp_path / "studio-random")
    assert made.index.keys == ShardReader(studio_set).index.keys[0:9:3] and made.index.shard_counts == [2, 1]
