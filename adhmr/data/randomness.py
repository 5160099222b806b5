"""Random numbers that belong to a purpose and a position, never to a process.

The order of samples is in sampler.py; this only turns names and numbers into independent generators.
"""

from dataclasses import dataclass
from hashlib import blake2b
from numbers import Integral

import numpy as np


def philox_for(*parts: str | int) -> np.random.Philox:
    """The Philox-4x64 stream whose key is the 128-bit BLAKE2b digest of the parts (strings and integers)."""
    digest = blake2b(digest_size=16)
    for part in parts:
        # Length and kind before the content, so that ("a", "b") and ("ab",), or 1 and "1", never share a stream.
        kind, text = ("i", str(int(part))) if isinstance(part, Integral) else ("s", part)
        content = text.encode()
        digest.update(f"{kind}{len(content)}:".encode() + content)
    return np.random.Philox(key=int.from_bytes(digest.digest(), "little"))


def generator_for(*parts: str | int) -> np.random.Generator:
    """A numpy generator over philox_for(*parts)."""
    return np.random.Generator(philox_for(*parts))


def permutation_for(count: int, *parts: str | int) -> np.ndarray:
    """A permutation of range(count), (count,) int64.

    It is the stable argsort of raw 64-bit draws: numpy promises a named bit generator's stream for ever, which it does
    not for Generator.permutation.
    """
    return np.argsort(philox_for(*parts).random_raw(count), kind="stable")


@dataclass(frozen=True, slots=True)
class RandomKey:
    """All the randomness of one training position (or row): one independent generator for each purpose."""

    seed: int
    position: int

    def rng(self, purpose: str) -> np.random.Generator:
        """A fresh generator at the start of the stream of (seed, purpose, position)."""
        return generator_for(self.seed, purpose, self.position)
