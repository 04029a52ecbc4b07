"""Operations of `keras.ops` that methods use most, quicker with PyTorch.

In eager PyTorch, a function of `keras.ops` takes up to ten times as long as the operator on a small
tensor, since it first looks for symbolic tensors. Compiled code is the same. NumPy arrays stay
NumPy arrays, in their own precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops
from keras.backend import standardize_dtype

SQUARE_OF_ZERO = 1e-14


def matmul(x: Any, matrix: Any) -> Any:
    """Return `x A`, as `ops.matmul` does."""
    if len(x.shape) == len(matrix.shape) == 2 and x.dtype == matrix.dtype:
        return x @ matrix  # TensorFlow is slow at `@` with more axes
    return ops.matmul(x, matrix)


def reshape(x: Any, shape: tuple[Any, ...]) -> Any:
    """Return a tensor in another shape, as `ops.reshape` does."""
    # a tensor of TensorFlow has no such method
    return x.reshape(shape) if hasattr(x, "reshape") else ops.reshape(x, shape)


def concatenate(parts: Sequence[Any], axis: int) -> Any:
    """Join tensors along an axis."""
    return (np if isinstance(parts[0], np.ndarray) else ops).concatenate(parts, axis=axis)


def transpose(x: Any) -> Any:
    """Return the transpose of a matrix."""
    return x.T if isinstance(x, np.ndarray) else ops.transpose(x)


def constant(values: np.ndarray, like: Any) -> Any:
    """Return fixed numbers as an array of the kind and the dtype of another."""
    if isinstance(like, np.ndarray):
        return values.astype(like.dtype)
    return ops.convert_to_tensor(values, dtype=standardize_dtype(like.dtype))


def scattered(values: Any, places: Any, shape: tuple[int, int]) -> Any:
    """Return a matrix with values at flat places, counted row by row, and 0 elsewhere."""
    size = shape[0] * shape[1]
    flat = ops.segment_sum(values, places, num_segments=size)  # supports vmap, unlike a scatter
    return reshape(flat, shape)


def kron(a: Any, b: Any) -> Any:
    """Return the Kronecker product of two matrices."""
    (p, q), (r, s) = a.shape, b.shape
    return reshape(a[:, None, :, None] * b[None, :, None, :], (p * r, q * s))


def is_float32(x: Any) -> bool:
    """Return whether `x` is float32, so that a kernel plus a small delta keeps the delta."""
    return bool(standardize_dtype(x.dtype) == "float32")


def softmax(x: Any) -> Any:
    """Return the softmax over the last axis."""
    if not isinstance(x, np.ndarray):
        return ops.softmax(x)
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def total(x: Any) -> Any:
    """Return the sum of all entries."""
    return (np if isinstance(x, np.ndarray) else ops).sum(x)


def norm(x: Any) -> Any:
    """Return the square root of the sum of all squares; its gradient at 0 is 0, and not NaN."""
    library = np if isinstance(x, np.ndarray) else ops
    return library.sqrt(total(library.square(x)) + SQUARE_OF_ZERO)


def largest(sizes: np.ndarray, share: float) -> np.ndarray:
    """Return 1 at a share of the entries, the largest ones, and 0 elsewhere; at least one is 1."""
    return highest(sizes.ravel(), max(1, round(share * sizes.size))).reshape(sizes.shape)


def highest(scores: np.ndarray, count: int) -> np.ndarray:
    """Return 1 for the highest scores of the last axis, the first ones of equals, else 0."""
    order = np.argsort(-scores, axis=-1, kind="stable")
    mask = np.zeros(scores.shape)
    np.put_along_axis(mask, order[..., :count], 1.0, axis=-1)
    return mask


def positive(x: Any) -> Any:
    """Return 1 where a number is positive, and 0 elsewhere."""
    is_host = isinstance(x, np.ndarray | np.generic)
    return (x > 0).astype(x.dtype) if is_host else ops.cast(x > 0, x.dtype)


def held_but(array: Any, trained: Any) -> Any:
    """Return the same tensor, with gradients times `trained`, such as 0 or 1."""
    if isinstance(array, np.ndarray):
        return array
    held = ops.stop_gradient(array)
    return held + trained * (array - held)
