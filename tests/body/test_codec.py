"""The codec: the published scale, and that nothing is lost."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adhmr.body import PoseCodec


def test_published_scale() -> None:
    """ScoreHypo: u* = 100 (u / 256 - 1/2), d* = d / 20 with d in millimetres, t* = 50 t; joint-major order."""
    uvd = np.zeros((29, 3), np.float32)
    uvd[0] = [256, 64, 1.0]
    uvd[28] = [128, 0, -0.5]
    twists = np.zeros((23, 2), np.float32)
    twists[22] = [0.6, -0.8]
    x_joint, x_twist = PoseCodec(256).encode(uvd, twists)
    np.testing.assert_allclose(x_joint[:3], [50, -25, 50])
    np.testing.assert_allclose(x_joint[-3:], [0, -50, -25])
    np.testing.assert_allclose(x_twist[-2:], [30, -40])
    assert x_joint.shape == (87,) and x_twist.shape == (46,)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([64, 128, 256]), batch=st.sampled_from([(), (3,), (2, 4)]))
def test_round_trip(seed: int, size: int, batch: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(seed)
    uvd = torch.rand(*batch, 29, 3, generator=generator, dtype=torch.float64) * size
    twists = torch.randn(*batch, 23, 2, generator=generator, dtype=torch.float64)
    codec = PoseCodec(size)
    decoded = codec.decode(*codec.encode(uvd, twists))
    torch.testing.assert_close(decoded, (uvd, twists))


def test_crop_size_does_not_change_the_code() -> None:
    uvd, twists = torch.rand(29, 3) * 128, torch.rand(23, 2)
    doubled = uvd * torch.tensor([2.0, 2.0, 1.0])
    torch.testing.assert_close(PoseCodec(256).encode(doubled, twists), PoseCodec(128).encode(uvd, twists))
