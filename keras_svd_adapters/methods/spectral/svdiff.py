"""SVDiff: shift the singular values.

    K' = U diag(relu(s + q d)) Vt        d (k,) starts at 0,  k = min(m, n)

Han et al. 2023, arXiv:2303.11305. `q` is a strength, which the paper changes at inference. A value
that the training drives below 0 has no gradient any more, and a singular value of exactly 0 never
moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from keras.ops import relu

from keras_svd_adapters.methods.contract import Array, Kernel
from keras_svd_adapters.methods.hyperparameters import check_positive
from keras_svd_adapters.methods.spectral.forms import smallest_are_safe
from keras_svd_adapters.methods.spectral.spectral import Spectral


@dataclass(frozen=True, repr=False)
class SVDiff(Spectral):
    """Spectral shifts: add a trained number to each singular value.

    The method trains `min(m, n)` values per `(m, n)` kernel.

    Args:
        scale: Float, the strength `q` of the shifts.
        formulation: `"auto"` keeps the kernel and is exact at step 0.
            `"factored"` computes with the factors instead of the kernel, which
            is fastest in float32 and equal to about 1e-6.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.SVDiff().trainable_count(384, 1536)
    384

    Reference:
        - [Han et al., 2023](https://arxiv.org/abs/2303.11305)
    """

    scale: float = 1.0

    name: ClassVar[str] = "svdiff"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(scale=self.scale)

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-2

    def one_sided_is_safe(self, m: int, n: int, s: np.ndarray | None) -> bool:
        return smallest_are_safe(m, n, s)

    def core(self, k: int) -> dict[str, Array]:
        return {"shift": Array((k,), trainable=True, start=0.0)}

    def coefficients(self, v: SimpleNamespace, form: str, kernel: Kernel) -> dict[str, Any]:
        shifted = relu(v.s + self.scale * v.shift)
        if form == "factored":
            return {**vars(v), "gain": shifted}
        change = shifted - v.s
        return {**vars(v), "gain": change if form == "two_sided" else change / v.s}

    def mix(self, h: Any, c: SimpleNamespace, form: str) -> Any:
        return h * c.gain
