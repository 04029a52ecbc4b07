"""Fastfood: a random projection whose numbers are made again from a few integers.

H signs -> permutation -> g -> H, with H the Walsh-Hadamard matrix of L rows, L a power of 2

Le et al. 2013, "Fastfood: approximating kernel expansions in loglinear time". The integers are
hashed in int32, which wraps around alike on every backend.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
from keras import ops
from keras.ops import right_shift

from keras_svd_adapters.methods.algebra import constant, matmul, reshape

KEYS = 6  # integers of a projection
RADIX = 4  # bits of an index that one product transforms
DEVIATION = sqrt(4 * (256**2 - 1) / 12)  # of the sum of four random bytes


def projection(values: Any, keys: Any, size: int) -> Any:
    """Return `size` numbers whose norm is about that of the values, linear in them.

    Args:
        values: `(d,)`, d at most the power of 2 that follows `size`.
        keys: `(KEYS,)` in int32, which choose the projection.
        size: Number of results.
    """
    count, length = power_of_2(values.shape[0]), power_of_2(size)
    places = ops.arange(length, dtype="int32")
    signs = ops.cast(1 - 2 * (mixed(places[:count], keys[0]) & 1), "float32")
    short = walsh_hadamard(ops.pad(values, [[0, count - values.shape[0]]]) * signs)
    # Padded to L, the transform repeats these numbers; so the permutation reads them again.
    spread = ops.take(short, permuted(places, keys[1:5], length) & (count - 1), axis=0)
    long = walsh_hadamard(spread * nearly_normal(mixed(places, keys[5])))
    return long[:size] / sqrt(length * size)


def power_of_2(size: int) -> int:
    """Return the power of 2 from a size on."""
    return 1 << (size - 1).bit_length()


def walsh_hadamard(x: Any) -> Any:
    """Return `H x` for 2^p numbers; each product transforms some bits of their indices."""
    length = x.shape[0]
    left = length.bit_length() - 1
    while left:
        bits = min(left, RADIX)
        left -= bits
        turned = ops.transpose(reshape(x, (2**bits, -1)))
        x = reshape(matmul(turned, constant(hadamard_matrix(bits), x)), (length,))
    return x


def hadamard_matrix(bits: int) -> np.ndarray:
    """Return the Walsh-Hadamard matrix of 2^bits rows."""
    found: np.ndarray = np.ones((1, 1), "float32")
    for _ in range(bits):
        found = np.kron(np.float32([[1, 1], [1, -1]]), found)
    return found


def mixed(x: Any, key: Any) -> Any:
    """Return random int32 numbers, a hash of these and a key."""
    for factor, shift in ((-1640531535, 16), (-2048144789, 13), (-1028477387, 16)):
        x = (x ^ key) * factor
        x = x ^ (right_shift(x, shift) & ((1 << (32 - shift)) - 1))
    return x


def permuted(x: Any, keys: Any, length: int) -> Any:
    """Return a permutation of the numbers below a power of 2."""
    shift = max((length.bit_length() - 1) // 2, 1)
    for i in (0, 2):
        x = (x * (keys[i] | 1) + keys[i + 1]) & (length - 1)
        x = x ^ right_shift(x, shift)
    return x


def nearly_normal(x: Any) -> Any:
    """Return numbers of mean 0 and variance 1: sums of the four bytes of random integers."""
    pairs = (x & 0xFF00FF) + (right_shift(x, 8) & 0xFF00FF)
    sums = (pairs & 0xFFFF) + right_shift(pairs, 16)
    return (ops.cast(sums, "float32") - 510.0) / DEVIATION
