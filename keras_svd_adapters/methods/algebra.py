"""Operations of `keras.ops` that methods use most, quicker with PyTorch.

In eager PyTorch, a function of `keras.ops` takes up to ten times as long as the operator on a small
tensor, since it first looks for symbolic tensors. Compiled code is the same.
"""

from __future__ import annotations

from typing import Any

from keras import ops


def matmul(x: Any, matrix: Any) -> Any:
    """Return `x A`, as `ops.matmul` does."""
    if len(x.shape) == len(matrix.shape) == 2 and x.dtype == matrix.dtype:
        return x @ matrix  # TensorFlow is slow at `@` with more axes
    return ops.matmul(x, matrix)


def reshape(x: Any, shape: tuple[Any, ...]) -> Any:
    """Return a tensor in another shape, as `ops.reshape` does."""
    # a tensor of TensorFlow has no such method
    return x.reshape(shape) if hasattr(x, "reshape") else ops.reshape(x, shape)
