"""Pinhole cameras and crops: image to crop, camera space to crop pixels with relative depth (uvd), and back.

Pixel coordinates are continuous: pixel i covers [i, i + 1), so the middle of an S-pixel crop is S / 2. Every function
takes tensors or numpy arrays. Cutting and warping images is the business of the data package.
"""

import torch
from torch import Tensor

from adhmr.body.arrays import numpy_or_torch


def _align_batch(tensor: Tensor, item_dims: int, batch_dims: int) -> Tensor:
    """Add axes behind the batch axes that are there: (N, 3, 3) serves (N, M) hypotheses as (N, 1, 3, 3)."""
    own = tensor.ndim - item_dims
    if own == 0 or own >= batch_dims:
        return tensor
    return tensor.reshape(*tensor.shape[:own], *(1,) * (batch_dims - own), *tensor.shape[own:])


@numpy_or_torch
def crop_affine(centre: Tensor, side: Tensor, angle: Tensor, *, size: int) -> Tensor:
    """Image to crop, for a square of the image that may be turned.

    The inverse takes crop pixel q to `centre + side / size * R(angle) (q - size / 2)`.

    Args:
        centre: (..., 2) pixels of the image.
        side: (...,) pixels of the image.
        angle: (...,) radians.
        size: pixels of the crop's side.

    Returns:
        (..., 2, 3).
    """
    scale = size / side
    cosine, sine = scale * torch.cos(angle), scale * torch.sin(angle)
    cosine, sine = torch.broadcast_tensors(cosine, sine)
    linear = torch.stack([torch.stack([cosine, sine], -1), torch.stack([-sine, cosine], -1)], -2)
    shift = size / 2 - (linear @ centre.unsqueeze(-1))
    return torch.cat([linear.expand(*shift.shape[:-2], 2, 2), shift], dim=-1)


@numpy_or_torch
def compose_intrinsics(affine: Tensor, intrinsics: Tensor) -> Tensor:
    """Intrinsics of a crop: affine (..., 2, 3) image to crop, intrinsics (..., 3, 3) of the image -> (..., 3, 3)."""
    bottom = affine.new_tensor([0.0, 0.0, 1.0]).expand(*affine.shape[:-2], 1, 3)
    return torch.cat([affine, bottom], dim=-2) @ intrinsics


@numpy_or_torch
def apply_affine(affine: Tensor, points: Tensor) -> Tensor:
    """affine (..., 2, 3), points (..., J, 2) -> (..., J, 2)."""
    affine = _align_batch(affine, 2, points.ndim - 2)
    return points @ affine[..., :2].transpose(-1, -2) + affine[..., 2].unsqueeze(-2)


@numpy_or_torch
def project(points: Tensor, intrinsics: Tensor) -> Tensor:
    """Camera space to pixels.

    Args:
        points: (..., J, 3) metres, in front of the camera.
        intrinsics: (..., 3, 3); one with fewer batch axes serves all hypotheses behind them.

    Returns:
        (..., J, 2) pixels of the intrinsics' frame.
    """
    homogeneous = points @ _align_batch(intrinsics, 2, points.ndim - 2).transpose(-1, -2)
    return homogeneous[..., :2] / homogeneous[..., 2:]


@numpy_or_torch
def uvd_from_joints(joints29: Tensor, crop_intrinsics: Tensor) -> Tensor:
    """Camera space to crop pixels and depth behind the root.

    Args:
        joints29: (..., 29, 3) metres, the root first.
        crop_intrinsics: (..., 3, 3) of the crop.

    Returns:
        (..., 29, 3): u, v pixels of the crop, d = Z - Z_root metres.
    """
    depth = joints29[..., 2:] - joints29[..., :1, 2:]
    return torch.cat([project(joints29, crop_intrinsics), depth], dim=-1)


@numpy_or_torch
def joints_from_uvd(uvd: Tensor, crop_intrinsics: Tensor, root_depth: Tensor) -> Tensor:
    """The inverse of `uvd_from_joints` for a known depth of the root: X = K^-1 [u, v, 1] (d + Z_root).

    Args:
        uvd: (..., 29, 3), see `uvd_from_joints`.
        crop_intrinsics: (..., 3, 3) of the crop; one with fewer batch axes serves all hypotheses behind them.
        root_depth: (...,) metres; likewise.

    Returns:
        (..., 29, 3) camera space, metres.
    """
    batch_dims = uvd.ndim - 2
    inverse = torch.linalg.inv(_align_batch(crop_intrinsics, 2, batch_dims))
    depth = uvd[..., 2:] + _align_batch(root_depth, 0, batch_dims)[..., None, None]
    homogeneous = torch.cat([uvd[..., :2], torch.ones_like(uvd[..., :1])], dim=-1)
    return (homogeneous @ inverse.transpose(-1, -2)) * depth
