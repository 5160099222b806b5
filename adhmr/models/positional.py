"""Fixed sine and cosine tables: token index or time (1-D), and image position (2-D)."""

import math

import torch


def sinusoid(positions: torch.Tensor, dim: int) -> torch.Tensor:
    """(...) positions -> (..., dim) float32: all sines, then all cosines; frequencies 10000^(-i / (dim/2 - 1))."""
    half = dim // 2
    steps = torch.arange(half, device=positions.device, dtype=torch.float32)
    angles = positions[..., None].float() * torch.exp(-math.log(10000.0) / (half - 1) * steps)  # (..., dim/2)
    return torch.cat([angles.sin(), angles.cos()], -1)


def image_sinusoid(rows: int, columns: int, dim: int) -> torch.Tensor:
    """(rows * columns, dim) row-major: the first half of the channels encodes x, the second y; sines and cosines
    alternate."""
    half = dim // 2
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(0, half, 2, dtype=torch.float32) / half)  # (dim/4,)

    def axis(length: int) -> torch.Tensor:
        angles = torch.arange(length, dtype=torch.float32)[:, None] * frequencies
        return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)  # (length, dim/2)

    x = axis(columns)[None].expand(rows, -1, -1)
    y = axis(rows)[:, None].expand(-1, columns, -1)
    return torch.cat([x, y], -1).reshape(rows * columns, dim)
