"""An update that is a whole matrix, as the methods with sparse updates compute it."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_svd_adapters.methods.algebra import constant, is_float32
from keras_svd_adapters.methods.contract import Base


def plus_whole(x: Any, base: Base, delta: Any, form: str) -> Any:
    """Return `x (K + D)` for an `(m, n)` matrix D."""
    if is_float32(x) and base.tokens:
        return base(x, delta)
    if form == "patches":
        return base.plus(x, base.times(x, delta), constant(np.eye(base.shape[1]), delta))
    return base.plus(x, x, delta)
