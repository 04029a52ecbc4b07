"""NF4: the values of a kernel as 4-bit codes, with a scale for each block of values.

    value = code * scale        code: one of 16 quantiles of a normal distribution, in [-1, 1]

The values of a block follow each other along the inputs of one output. A byte holds two codes, the
first in its upper half. With double quantization, the scales are in 8 bits: the mean of all scales
plus a number in [-1, 1] times the largest difference of 256 scales (Dettmers et al. 2023,
arXiv:2305.14314).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from keras import ops

CODES = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ],
    "float32",
)
PAIRS = np.stack([np.repeat(CODES, 16), np.tile(CODES, 16)], axis=1)  # of each byte
GROUP = 256  # scales that have a largest difference in common
CODES_OF_KERNEL, SCALE = "kernel_codes", "kernel_scale"
LARGEST, MEAN = "kernel_scale_largest", "kernel_scale_mean"  # of scales in 8 bits
WEIGHTS = (CODES_OF_KERNEL, SCALE, LARGEST, MEAN)


def _scale_codes() -> np.ndarray:
    """Return the 256 numbers of a scale in 8 bits: seven decades, the finest at 1, and 0."""
    numbers = [0.0, 1.0]
    for decade in range(7):
        edges = np.linspace(0.1, 1, 2**decade + 1)
        middles = (edges[:-1] + edges[1:]) / 2 * 10.0 ** (decade - 6)
        numbers += [*middles, *-middles]
    return np.sort(numbers).astype("float32")


SCALE_CODES = _scale_codes()


def quantize(matrix: np.ndarray, block_size: int, double: bool) -> dict[str, np.ndarray]:
    """Return an `(m, n)` kernel as codes and scales, by the names of `WEIGHTS`.

    Args:
        matrix: The kernel.
        block_size: Number of values with one scale, even. The last block may be shorter.
        double: Whether the scales are in 8 bits.

    Raises:
        ValueError: If the kernel has NaN or infinite values.
    """
    blocks = _in_blocks(np.asarray(matrix, "float32").T, block_size)
    scale = np.abs(blocks).max(1)
    if not np.isfinite(scale).all():
        raise ValueError(
            "A kernel with NaN or infinite values has no NF4 codes: train or load the model "
            f"again. Received: a kernel of shape {matrix.shape}"
        )
    codes = _nearest(_relative(blocks, scale), CODES).ravel()
    stored = {CODES_OF_KERNEL: codes[::2] << 4 | codes[1::2], SCALE: scale}
    return stored | (_quantize_scale(scale) if double else {})


def _quantize_scale(scale: np.ndarray) -> dict[str, np.ndarray]:
    mean = scale.mean(dtype="float32", keepdims=True)
    groups = _in_blocks(scale - mean, GROUP)
    largest = np.abs(groups).max(1)
    codes = _nearest(_relative(groups, largest), SCALE_CODES).ravel()[: len(scale)]
    return {SCALE: codes, LARGEST: largest, MEAN: mean}


def _in_blocks(values: np.ndarray, size: int) -> np.ndarray:
    """Return values as rows of this size; zeros fill the last row."""
    values = values.ravel()
    return np.pad(values, (0, -len(values) % size)).reshape(-1, size)


def _relative(blocks: np.ndarray, largest: np.ndarray) -> np.ndarray:
    return blocks / np.where(largest > 0, largest, 1)[:, None]


def _nearest(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    middles = (codes[:-1] + codes[1:]) / 2
    return np.searchsorted(middles, values).astype("uint8")


def shapes(m: int, n: int, block_size: int, double: bool) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the arrays of `quantize`."""
    blocks = -(-m * n // block_size)
    found: dict[str, tuple[int, ...]] = {CODES_OF_KERNEL: (blocks * block_size // 2,)}
    found[SCALE] = (blocks,)
    return found | ({LARGEST: (-(-blocks // GROUP),), MEAN: (1,)} if double else {})


def dequantize(stored: Mapping[str, Any], shape: tuple[int, int], dtype: str) -> Any:
    """Return the transposed kernel `(n, m)` as floats.

    Args:
        stored: Tensors by the names of `WEIGHTS`.
        shape: Shape `(n, m)`.
        dtype: Dtype of the result. Scales are computed in float32.
    """
    scale = ops.cast(_scale(stored), dtype)
    pairs = _take(ops.convert_to_tensor(PAIRS, dtype), stored[CODES_OF_KERNEL])
    blocks = ops.reshape(pairs, (scale.shape[0], -1)) * ops.reshape(scale, (-1, 1))
    values, count = ops.reshape(blocks, (-1,)), shape[0] * shape[1]
    return ops.reshape(values if values.shape[0] == count else values[:count], shape)


def _scale(stored: Mapping[str, Any]) -> Any:
    """Return the scales in float32."""
    if LARGEST not in stored:
        return stored[SCALE]
    scale = _take(ops.convert_to_tensor(SCALE_CODES), stored[SCALE])
    largest = ops.repeat(stored[LARGEST], GROUP)[: scale.shape[0]]
    return scale * largest + stored[MEAN]


def _take(table: Any, codes: Any) -> Any:
    """Return the rows of a table for bytes; TensorFlow takes no bytes as indices."""
    return ops.take(table, ops.cast(codes, "int16"), axis=0)
