"""Weight files: round trip, and one clear line for each way in which a file can be wrong."""

import pytest
import torch
from safetensors.torch import save_file

from adhmr.errors import AdhmrError
from adhmr.models.encoder import ImageEncoder
from adhmr.models.scorer import HMRScorer
from adhmr.models.weights import (
    load_encoder_weights,
    load_model,
    load_weights,
    save_encoder,
    save_weights,
    weights_hash,
)


@pytest.fixture
def base_file(tmp_path, tiny_model, tiny_config):
    path = tmp_path / "runs" / "base.safetensors"
    save_weights(path, tiny_model, "base", tiny_config.model_dump(mode="json"), {"step": 12})
    return path


def test_the_same_weights_are_the_same_bytes(base_file, tmp_path, tiny_model, tiny_config):
    config = tiny_config.model_dump(mode="json")
    for number in range(5):  # safetensors would write the header's entries in random order
        again = tmp_path / f"{number}.safetensors"
        save_weights(again, tiny_model, "base", config, {"step": 12})
        assert again.read_bytes() == base_file.read_bytes() and weights_hash(again) == weights_hash(base_file)
    save_weights(again, tiny_model, "base", config, {"step": 13})
    assert weights_hash(again) != weights_hash(base_file)


def test_round_trip(base_file, tiny_model, images):
    loaded = load_model(base_file, "base")
    assert not loaded.training
    assert loaded.config == tiny_model.config
    with torch.no_grad():
        assert torch.equal(loaded.encoder(images).local, tiny_model.encoder(images).local)
    _, metadata = load_weights(base_file)
    assert metadata["kind"] == "base" and metadata["step"] == 12
    assert [path.name for path in base_file.parent.iterdir()] == ["base.safetensors"]  # no partial file stays


def test_scorer_round_trip(tmp_path, scorer_config):
    scorer = HMRScorer(scorer_config)
    save_weights(tmp_path / "scorer.safetensors", scorer, "scorer", scorer_config.model_dump(mode="json"))
    loaded = load_model(tmp_path / "scorer.safetensors", "scorer")
    for name, tensor in scorer.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_other_kind(base_file):
    with pytest.raises(AdhmrError, match="kind 'base', expected 'scorer'"):
        load_model(base_file, "scorer")


def test_missing_file(tmp_path):
    with pytest.raises(AdhmrError, match="no such weight file"):
        load_model(tmp_path / "nothing.safetensors", "base")


def test_cut_off_file(base_file):
    base_file.write_bytes(base_file.read_bytes()[:-100])
    with pytest.raises(AdhmrError, match="not a whole safetensors file"):
        load_model(base_file, "base")


def test_foreign_file(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(AdhmrError, match="without ADHMR's metadata"):
        load_model(tmp_path / "foreign.safetensors", "base")


def test_unknown_configuration_key(tmp_path, tiny_model, tiny_config):
    config = tiny_config.model_dump(mode="json") | {"novelty": 1}
    save_weights(tmp_path / "new.safetensors", tiny_model, "base", config)
    with pytest.raises(AdhmrError, match="novelty"):
        load_model(tmp_path / "new.safetensors", "base")


def test_tensors_that_do_not_fit_are_named(tmp_path, tiny_model, tiny_config):
    config = tiny_config.model_dump(mode="json")
    config["denoiser"]["ffn"] = 32
    save_weights(tmp_path / "other.safetensors", tiny_model, "base", config)
    with pytest.raises(AdhmrError, match=r"blocks\.0\.linear1\.weight is \(128, 64\) instead of \(32, 64\)"):
        load_model(tmp_path / "other.safetensors", "base")


def test_encoder_export_is_half_precision_and_loads_everywhere(tmp_path, tiny_model, scorer_config, base_file):
    path = tmp_path / "encoder.safetensors"
    save_encoder(path, tiny_model.encoder)
    state, _ = load_weights(path)
    assert {tensor.dtype for tensor in state.values()} == {torch.float16, torch.int64}
    for source, tolerance in ((path, 1e-3), (base_file, 0.0)):
        scorer = HMRScorer(scorer_config)
        load_encoder_weights(scorer.encoder, source)
        for name, tensor in tiny_model.encoder.state_dict().items():
            assert scorer.encoder.state_dict()[name].dtype == tensor.dtype
            torch.testing.assert_close(scorer.encoder.state_dict()[name], tensor, atol=tolerance, rtol=tolerance)
    assert isinstance(load_model(path, "encoder"), ImageEncoder)


def test_encoder_of_other_shape_is_refused(tmp_path, tiny_model, tiny_config):
    path = tmp_path / "encoder.safetensors"
    save_encoder(path, tiny_model.encoder)
    other = tiny_config.encoder.model_copy(update={"depth_head": False})
    with pytest.raises(AdhmrError, match="unknown depth_maps"):
        load_encoder_weights(ImageEncoder(other), path)
