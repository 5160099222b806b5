import io

import numpy as np
import pytest
import torch

from adhmr.data.stream import collate
from adhmr.models.weights import load_model
from adhmr.preference.records import encode_array, features_from_batch, features_to_array


@pytest.fixture(scope="module")
def features(tiny_weights, batch):
    with torch.no_grad():
        return load_model(tiny_weights / "base.safetensors", "base").encoder(batch["image"])


@pytest.mark.parametrize("with_depth", [True, False])
def test_stored_features_are_those_of_the_encoder(features, with_depth):
    if not with_depth:
        features = features._replace(depth=None)
    stored = [np.load(io.BytesIO(encode_array(features_to_array(features, row, "fp16")))) for row in range(4)]
    batch = collate([{f"features_{name}": np.array(one[name]) for name in one.dtype.names} for one in stored])
    found = features_from_batch(batch)
    for name in ("memory", "local"):  # kept in half precision
        assert torch.equal(getattr(found, name), getattr(features, name).half().float()), name
    for name in ("joints2d", "betas", "depth"):
        expected = getattr(features, name)
        assert expected is None if getattr(found, name) is None else torch.equal(getattr(found, name), expected), name
    assert (found.depth is None) is not with_depth
