import json
import threading

import numpy as np
import pytest
import torch

from adhmr.data.shard_reader import ShardReader
from adhmr.errors import AdhmrError
from adhmr.models.weights import load_model
from adhmr.preference import crops, generator, packing
from adhmr.preference.generate import run_stage
from adhmr.preference.generator import Generator
from adhmr.preference.preference_set import PreferenceSet
from adhmr.preference.records import HYPOTHESIS_DTYPE
from tests.preference.test_generate import make_config


def test_stored_features_are_those_of_the_stored_image(tmp_path, tiny_weights, studio_set):
    run_stage(make_config(tmp_path, tiny_weights, studio_set, ["random"], features="fp32"))
    encoder, made = (
        load_model(tiny_weights / "base.safetensors", "base").encoder,
        ShardReader(tmp_path / "studio-random"),
    )
    for row in range(len(made)):
        sample = made.read(row)
        with torch.no_grad():
            seen = encoder(torch.from_numpy(sample.image.transpose(2, 0, 1).copy())[None])
        stored = sample.extras["features.npy"]
        for name in ("memory", "local", "joints2d", "betas", "depth"):
            assert stored[name].dtype == np.float32
            np.testing.assert_allclose(stored[name], getattr(seen, name)[0], atol=1e-5, err_msg=name)
        assert (sample.provenance["features"], sample.provenance["precision"]) == ("fp32", "fp32")


def test_all_hypotheses_are_kept_if_asked_for_and_images_without_a_pair_stay(tmp_path, tiny_weights, studio_set):
    settings = {"margin": {"error": 0.5}, "keep": "all"}  # no pair differs by half a metre
    run_stage(make_config(tmp_path, tiny_weights, studio_set, ["error", "scorer"], **settings))
    by_error, by_scorer = (ShardReader(tmp_path / f"studio-{ranking}") for ranking in ("error", "scorer"))
    assert by_error.index.keys == by_scorer.index.keys == ShardReader(studio_set).index.keys
    for row in range(len(by_error)):
        first, second = by_error.read(row).extras, by_scorer.read(row).extras
        kept, scored, pairs = first["hypotheses.npy"], second["hypotheses.npy"], second["pairs.npy"]
        assert kept.shape == (6,) and kept.dtype == HYPOTHESIS_DTYPE and not len(first["pairs.npy"])
        np.testing.assert_array_equal(kept["uvd"], scored["uvd"])
        np.testing.assert_array_equal(kept["error"], scored["error"])
        np.testing.assert_array_equal(kept["value"], -kept["error"])
        for side in ("winner", "loser"):
            chosen = scored[pairs[f"{side}_index"]]
            for name in HYPOTHESIS_DTYPE.names:
                np.testing.assert_array_equal(pairs[f"{side}_{name}"], chosen[name])
    figures = json.loads((tmp_path / "studio-error" / "statistics.json").read_text())
    assert (figures["left_out"], figures["pairs"]) == (10, 0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_bounded_calls_change_little_and_keep_their_bound(tmp_path, tiny_weights, studio_set, precision):
    """The pairs of a scorer's order may change with the last digits: the samples and values may not."""
    found = {}
    for per_call in (800, 4):
        config = make_config(
            tmp_path / str(per_call), tiny_weights, studio_set, ["scorer"],
            keep="all", hypotheses_per_call=per_call, precision=precision,
        )  # fmt: skip
        run_stage(config)
        made = ShardReader(config.output / "studio-scorer")
        found[per_call] = np.stack([made.read(row).extras["hypotheses.npy"] for row in range(len(made))])
    loose = 1.0 if precision == "fp32" else 100.0
    for name, tolerance in (("uvd", 1e-3), ("twists", 1e-4), ("value", 1e-4)):
        np.testing.assert_allclose(found[4][name], found[800][name], atol=loose * tolerance, err_msg=name)


def test_meshes_are_made_for_errors_alone(tmp_path, tiny_weights, studio_set, monkeypatch):
    def no_mesh(*arguments):
        raise RuntimeError("a mesh")

    monkeypatch.setattr(generator.VertexSubset, "forward", no_mesh)
    monkeypatch.setattr(generator.BodyModel, "forward", no_mesh)
    run_stage(make_config(tmp_path, tiny_weights, studio_set, ["scorer", "mode", "joints2d", "random"]))
    made = Generator(make_config(tmp_path / "errors", tiny_weights, studio_set))
    with pytest.raises(RuntimeError, match="a mesh"):
        next(made.batches(ShardReader(studio_set), range(2), ["error"]))


@pytest.mark.parametrize(("module", "name"), [(crops, "_jpeg"), (packing, "encode_array")])
def test_an_error_on_any_thread_is_that_of_the_unit(tmp_path, tiny_weights, studio_set, monkeypatch, module, name):
    def fails(*arguments):
        raise ValueError(f"{name} on {threading.current_thread().name}")

    monkeypatch.setattr(module, name, fails)
    ledger = {"attempts": 1}
    with pytest.raises(AdhmrError, match=f"attempt 1: ValueError: {name} on ThreadPoolExecutor"):
        run_stage(make_config(tmp_path, tiny_weights, studio_set, ledger=ledger))


def test_a_worker_that_is_asked_to_leave_does_so_after_the_batch(tmp_path, tiny_weights, studio_set):
    class Leave(Exception):
        pass

    def pause():
        if len(sampled) == 2:
            raise Leave

    config = make_config(tmp_path, tiny_weights, studio_set, images_per_batch=1)
    made, sampled = Generator(config), []
    real = made.sampled
    made.sampled = lambda *arguments: sampled.append(1) or real(*arguments)
    threads = threading.active_count()
    shards, _ = PreferenceSet(made, config.sets[0]).works("worker")
    with pytest.raises(Leave):
        shards.make("000000", pause)
    assert len(sampled) == 2 and threading.active_count() == threads
    assert not list(tmp_path.glob("studio-error/*tar*"))
