"""The codec of x0: joints in the crop and twists to and from the numbers that the diffusion model sees.

All numbers lie in about -50..50: the data scale of ScoreHypo (Xu et al. 2024), whose noise has unit variance.
"""

import torch
from torch import Tensor

from adhmr.body.arrays import numpy_or_torch
from adhmr.body.skeleton import NUM_JOINTS, NUM_TWISTS

DATA_SCALE = 50.0


class PoseCodec:
    """u* = 100 (u / S - 1/2), v likewise, d* = 50 d, t* = 50 t for a crop of S pixels and d in metres.

    Takes tensors or numpy arrays.
    """

    def __init__(self, crop_size: int) -> None:
        self.crop_size = crop_size

    def encode(self, uvd: Tensor, twists: Tensor) -> tuple[Tensor, Tensor]:
        """uvd (..., 29, 3) crop pixels and metres, twists (..., 23, 2) -> x_joint (..., 87), x_twist (..., 46)."""
        return _encode_joints(uvd, crop_size=self.crop_size), _encode_twists(twists)

    def decode(self, x_joint: Tensor, x_twist: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of `encode`; twists keep whatever length they have."""
        return _decode_joints(x_joint, crop_size=self.crop_size), _decode_twists(x_twist)


@numpy_or_torch
def _encode_joints(uvd: Tensor, *, crop_size: int) -> Tensor:
    pixels = 2 * DATA_SCALE * (uvd[..., :2] / crop_size - 0.5)
    return torch.cat([pixels, DATA_SCALE * uvd[..., 2:]], dim=-1).flatten(-2)


@numpy_or_torch
def _decode_joints(x_joint: Tensor, *, crop_size: int) -> Tensor:
    x_joint = x_joint.unflatten(-1, (NUM_JOINTS, 3))
    pixels = crop_size * (x_joint[..., :2] / (2 * DATA_SCALE) + 0.5)
    return torch.cat([pixels, x_joint[..., 2:] / DATA_SCALE], dim=-1)


@numpy_or_torch
def _encode_twists(twists: Tensor) -> Tensor:
    return (DATA_SCALE * twists).flatten(-2)


@numpy_or_torch
def _decode_twists(x_twist: Tensor) -> Tensor:
    return x_twist.unflatten(-1, (NUM_TWISTS, 2)) / DATA_SCALE
