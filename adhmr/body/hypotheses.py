"""What a hypothesis of a pose is, as samplers give it and scorers look at it. Sampling and posing: adhmr.preference."""

from typing import NamedTuple

from torch import Tensor


class Hypotheses(NamedTuple):
    """M hypotheses for each of N images. Of sampled ones, hypothesis 0 starts from zero noise (the mode)."""

    uvd: Tensor  # (N, M, 29, 3) pixels of the crop; depth relative to the root, metres
    twists: Tensor | None = None  # (N, M, 23, 2) cos, sin; as sampled not of unit length
    rotations: Tensor | None = None  # (N, M, 24, 3, 3) local rotations, the root's first

    def block(self, rows: slice, columns: slice) -> "Hypotheses":
        """Some hypotheses of some images."""
        return Hypotheses(*(None if part is None else part[rows, columns] for part in self))
