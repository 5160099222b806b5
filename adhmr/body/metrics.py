"""Distances between bodies in metres: over vertices or joints, root-aligned or Procrustes-aligned, batched.

Aggregation over hypotheses and data sets is the business of the evaluation package.
"""

from collections.abc import Sequence

import roma
import torch
from torch import Tensor


def _mean_distance(predicted: Tensor, target: Tensor, counted: Sequence[int] | None = None) -> Tensor:
    # Plane by plane: torch's norm over a last axis of three is several times slower on a CPU.
    x, y, z = (predicted - target).unbind(-1)
    distance = torch.addcmul(torch.addcmul(x.square(), y, y), z, z).sqrt()
    return (distance if counted is None else distance[..., list(counted)]).mean(-1)


def vertex_error(
    predicted: Tensor, target: Tensor, predicted_root: Tensor | None = None, target_root: Tensor | None = None
) -> Tensor:
    """Per-vertex error (PVE): mean distance of corresponding vertices.

    Args:
        predicted: (..., V, 3) metres.
        target: (..., V, 3) metres; axes of length one serve all hypotheses, as (N, 1, V, 3) for (N, M, V, 3).
        predicted_root: (..., 3): the point that is put on `target_root`. None of both: compared where they are.
        target_root: (..., 3).

    Returns:
        (...,) metres.
    """
    if predicted_root is not None and target_root is not None:
        # Moving one side by the difference costs one pass over the vertices in place of two.
        target = target + (predicted_root - target_root).unsqueeze(-2)
    return _mean_distance(predicted, target)


def joint_error(
    predicted: Tensor, target: Tensor, root: int | None = 0, counted: Sequence[int] | None = None
) -> Tensor:
    """Mean per-joint position error (MPJPE) after the root joints are put on each other.

    Args:
        predicted: (..., J, 3) metres.
        target: (..., J, 3) metres.
        root: the joint to align; None compares positions where they are.
        counted: the joints that are averaged; None for all.

    Returns:
        (...,) metres.
    """
    if root is not None:
        predicted = predicted - predicted[..., root : root + 1, :]
        target = target - target[..., root : root + 1, :]
    return _mean_distance(predicted, target, counted)


def procrustes_align(predicted: Tensor, target: Tensor) -> Tensor:
    """The predicted points, turned, scaled and moved to lie closest to the target points (Umeyama 1991).

    Args:
        predicted: (..., V, 3).
        target: (..., V, 3), broadcast against it.

    Returns:
        (..., V, 3), the broadcast shape.
    """
    predicted_mean, target_mean = predicted.mean(-2, keepdim=True), target.mean(-2, keepdim=True)
    centred, target_centred = predicted - predicted_mean, target - target_mean
    planes = centred.transpose(-1, -2)  # (..., 3, V): products and sums below run along the vertices
    covariance = target_centred.transpose(-1, -2) @ centred  # (..., 3, 3)
    rotation = roma.special_procrustes(covariance)  # mirror images are not rotations: det is +1
    variance = (planes @ centred).diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(torch.finfo(centred.dtype).tiny)
    scale = (rotation * covariance).sum((-1, -2)) / variance
    return ((scale[..., None, None] * rotation) @ planes).transpose(-1, -2) + target_mean


def pa_error(predicted: Tensor, target: Tensor, counted: Sequence[int] | None = None) -> Tensor:
    """Mean distance after Procrustes alignment (PA-MPJPE for joints, PA-PVE for vertices): (...,), metres.

    All points are aligned; only `counted` ones are averaged, all when None.
    """
    return _mean_distance(procrustes_align(predicted, target), target, counted)
