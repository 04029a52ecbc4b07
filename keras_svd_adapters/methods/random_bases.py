"""Random numbers from a seed, equal on every platform and in every version of NumPy."""

from __future__ import annotations

from math import prod

import numpy as np


class PortableRandom:
    """A stream of random numbers, made of the raw bits of a generator.

    NumPy keeps the bits of `Philox`, but not the functions that turn bits into numbers.

    Args:
        seed: Integer, not negative.
        stream: Number of the stream; the streams of a seed are independent.
    """

    def __init__(self, seed: int, stream: int = 0):
        self.bits = np.random.Philox(key=seed + (stream << 64))

    def uniform(self, shape: tuple[int, ...], bound: float = 1.0) -> np.ndarray:
        """Return float32 numbers that are uniform in +-bound."""
        raw = self.bits.random_raw(prod(shape)) >> np.uint64(40)
        unit = raw.astype("float32") / np.float32(2**23) - np.float32(1)
        return np.float32(bound) * unit.reshape(shape)

    def normal(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return float32 numbers of the standard normal distribution, by Box and Muller."""
        raw = self.bits.random_raw(2 * prod(shape)).reshape(2, -1) >> np.uint64(11)
        radius, turn = (raw + np.uint64(1)).astype("float64") / 2**53
        values = np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * turn)
        return values.astype("float32").reshape(shape)
