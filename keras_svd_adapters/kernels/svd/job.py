"""One kernel to decompose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from keras_svd_adapters.methods.contract import Truncation


@dataclass(frozen=True)
class Job:
    """One kernel to decompose.

    Args:
        kernel: Function that brings the kernel to the host, as `(m, n)`.
        shape: Shape `(m, n)` of the kernel.
        part: The part of the decomposition to compute, `None` for all of it.
        is_required: Whether to decompose the kernel at all.
    """

    kernel: Callable[[], np.ndarray]
    shape: tuple[int, int]
    part: Truncation | None
    is_required: bool = True
