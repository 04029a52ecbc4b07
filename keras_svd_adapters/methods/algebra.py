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


def plus_product(y: Any, h: Any, matrix: Any) -> Any:
    """Return `y + h B` for matrices."""
    if hasattr(y, "addmm") and len(h.shape) == 2 and y.dtype == h.dtype == matrix.dtype:
        return y.addmm(h, matrix)  # one operation of PyTorch
    return y + matmul(h, matrix)


def scaled(x: Any, factor: float) -> Any:
    """Return a tensor times a number, without an operation if the number is 1."""
    return x if factor == 1 else factor * x


def reshape(x: Any, shape: tuple[Any, ...]) -> Any:
    """Return a tensor in another shape, as `ops.reshape` does."""
    # a tensor of TensorFlow has no such method
    return x.reshape(shape) if hasattr(x, "reshape") else ops.reshape(x, shape)


def concatenate(parts: Sequence[Any], axis: int) -> Any:
    """Join tensors along an axis."""
    return (np if isinstance(parts[0], np.ndarray) else ops).concatenate(parts, axis=axis)


def pieces(x: Any, sizes: list[int]) -> Sequence[Any]:
    """Return parts of an array, of these sizes along its first axis."""
    if hasattr(x, "split"):
        return x.split(sizes)
    ends = np.cumsum(sizes).tolist()
    return [x[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def transpose(x: Any) -> Any:
    """Return the transpose of a matrix."""
    return x.T if hasattr(x, "T") else ops.transpose(x)


def zeros(shape: Sequence[Any], like: Any) -> Any:
    """Return zeros of the kind and the dtype of another tensor."""
    return like.new_zeros(shape) if hasattr(like, "new_zeros") else ops.zeros(shape, like.dtype)


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


def total(x: Any, axis: int | None = None) -> Any:
    """Return the sum of all entries, or the sums along an axis."""
    return x.sum(axis=axis) if hasattr(x, "sum") else ops.sum(x, axis=axis)


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
    is_positive = x > 0
    if hasattr(is_positive, "to"):
        return is_positive.to(x.dtype)
    is_host = isinstance(x, np.ndarray | np.generic)
    return is_positive.astype(x.dtype) if is_host else ops.cast(is_positive, x.dtype)


def at_least(x: Any, low: float) -> Any:
    """Return the larger one of a number and each entry."""
    return x.clip(min=low) if hasattr(x, "clip") else ops.maximum(x, low)


def held_but(array: Any, trained: Any) -> Any:
    """Return the same tensor, with gradients times `trained`, such as 0 or 1."""
    if isinstance(array, np.ndarray):
        return array
    held = ops.stop_gradient(array)
    return held + trained * (array - held)
