import numpy as np
import pytest
import roma
import torch
from hypothesis import given
from hypothesis import strategies as st

from adhmr.body.codec import PoseCodec
from adhmr.body.hypotheses import Hypotheses
from adhmr.config.common import SamplerConfig
from adhmr.models.weights import load_model
from adhmr.preference.hypotheses import blocks, fresh_noise, hypothesis_noise, pose_hypotheses, sample_hypotheses
from tests.tiny import CROP

names = st.lists(st.text("abc-019", min_size=1, max_size=8), min_size=1, max_size=5, unique=True)


@given(st.integers(0, 2**31), names, st.integers(1, 6), st.integers(1, 6))
def test_noise_of_fewer_hypotheses_is_the_beginning_of_more(seed, keys, fewer, more):
    long, short = hypothesis_noise(seed, keys, fewer + more), hypothesis_noise(seed, keys, fewer)
    assert torch.equal(long[:, :fewer], short)
    assert not long[:, 0].any() and long[:, 1:].any(-1).all()


@given(st.integers(0, 2**31), names)
def test_noise_is_the_images_own_whatever_the_batch(seed, keys):
    together = hypothesis_noise(seed, keys, 3)
    for row, key in enumerate(keys):
        assert torch.equal(hypothesis_noise(seed, [key], 3)[0], together[row])


def test_noise_is_standard_normal_and_differs_between_images_and_seeds():
    noise = hypothesis_noise(0, ["a", "b"], 60)[:, 1:]
    assert abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.03
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise, hypothesis_noise(1, ["a", "b"], 60)[:, 1:])


def test_true_joints_and_twists_give_the_true_rotations(body, batch):
    truth = Hypotheses(batch["uvd"][:, None], batch["twists"][:, None])
    found = pose_hypotheses(body, truth, batch["betas"], batch["intrinsics"], batch["root_depth"])
    posed = body.joints29(found[:, 0], batch["betas"])
    expected = body.joints29(roma.rotvec_to_rotmat(batch["pose"]), batch["betas"])
    # Not bit for bit: a rotation that bends no bone's joints apart is told by its twist alone.
    assert (posed - expected).norm(dim=-1).max() < 0.005


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_samples_are_in_the_units_of_the_crop_and_the_same_again(tiny_weights, batch, precision):
    model = load_model(tiny_weights / "base.safetensors", "base")
    features = model.encoder(batch["image"])
    noise = hypothesis_noise(0, batch["key"], 3)
    first = sample_hypotheses(model, features, noise, CROP["size"], precision)
    again = sample_hypotheses(model, features, noise, CROP["size"], precision)
    assert first.uvd.shape == (4, 3, 29, 3) and first.twists.shape == (4, 3, 23, 2)
    assert first.uvd.dtype == torch.float32 and torch.isfinite(first.uvd).all()
    assert torch.equal(first.uvd, again.uvd) and torch.equal(first.twists, again.twists)
    assert not torch.equal(first.uvd[:, 1], first.uvd[:, 2])
    x_joint, _ = PoseCodec(CROP["size"]).encode(first.uvd, first.twists)
    assert np.abs(x_joint.numpy()).max() < 200  # about +-50 in data; thousands would be pixels


@given(st.integers(1, 9), st.integers(1, 12), st.integers(1, 40))
def test_blocks_cover_all_hypotheses_once_and_keep_images_whole_where_they_fit(images, count, limit):
    seen = np.zeros((images, count), int)
    for rows, columns in blocks(images, count, limit):
        part = seen[rows, columns]
        assert 0 < part.size <= limit and (part.shape[1] == count or part.shape[0] == 1)
        assert part.shape[1] == count or limit < count
        part += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("per_call", [1, 2, 5, 10])
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_calls_of_any_size_give_the_same_samples(tiny_weights, batch, per_call, eta):
    model = load_model(tiny_weights / "base.safetensors", "base")
    features = model.encoder(batch["image"])
    noise, fresh = hypothesis_noise(0, batch["key"], 5), fresh_noise(0, batch["key"], 5)
    sampler = SamplerConfig(eta=eta)
    sizes = []
    hook = model.denoiser.register_forward_pre_hook(lambda _, given: sizes.append(given[2].numel()))
    some = sample_hypotheses(model, features, noise, CROP["size"], "fp32", sampler, fresh, per_call)
    assert max(sizes) == per_call
    hook.remove()
    whole = sample_hypotheses(model, features, noise, CROP["size"], "fp32", sampler, fresh)
    torch.testing.assert_close(some.uvd, whole.uvd, atol=1e-3, rtol=0)
    torch.testing.assert_close(some.twists, whole.twists, atol=1e-4, rtol=0)
