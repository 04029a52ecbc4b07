"""DoRA: a magnitude for each output, and LoRA for the direction.

    K' = V f      V = K + c A B,  f_j = magnitude_j / |V_:j|,  magnitude starts at |K_:j|

Liu et al. 2024, arXiv:2402.09353. Each output element has one magnitude, as in the authors' code.
The norm needs no temporary array of shape (m, n):

    |V_:j|^2 = |K_:j|^2 + 2 c (K^T A)_j . B_:j + c^2 B_:j^T (A^T A) B_:j
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.algebra import matmul, scaled
from keras_svd_adapters.methods.contract import SVD, Array, Base, Dropout, Kernel
from keras_svd_adapters.methods.low_rank.scaled_product import ScaledProduct
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.methods.normed_update import (
    follow_lengths,
    length_arrays,
    length_factor,
    start_lengths,
)


@dataclass(frozen=True, repr=False)
class DoRA(ScaledProduct):
    """Weight-decomposed low-rank adaptation: LoRA plus a magnitude per output.

    The method trains `rank * (m + n) + n` values per `(m, n)` kernel.

    Args:
        rank: Integer, the rank of the update. The paper uses 16 and 32.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` sets
            alpha to `rank`; the paper uses twice the rank.
        rslora: Boolean. Whether to scale by `alpha / sqrt(rank)` instead.
        dropout: Float in [0, 1), the dropout rate for the input of every term
            added to the base layer's output. Dropout costs a second product
            with the kernel.
        detach_norm: Boolean. Whether the gradient treats the norm as a
            constant, as the paper proposes to save memory.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.DoRA(rank=4).trainable_count(384, 1536)
    9216

    The authors advise a learning rate slightly below LoRA's. Weight decay does
    not apply to the magnitudes here.

    Reference:
        - [Liu et al., 2024](https://arxiv.org/abs/2402.09353)
    """

    detach_norm: bool = True

    name: ClassVar[str] = "dora"

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-3

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        return super().arrays(m, n, form) | length_arrays(n)

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        return super().start(K, form, rng, svd) | start_lengths(K)

    def follow(self, K: np.ndarray, v: SimpleNamespace) -> dict[str, np.ndarray]:
        return follow_lengths(K, v)

    def coefficients(self, v: SimpleNamespace, form: str, kernel: Kernel) -> dict[str, Any]:
        gain = length_factor(v, scaled(v.lora_a, self.scale), v.lora_b, kernel, self.detach_norm)
        return {**vars(v), "gain": gain}

    def apply(self, x: Any, base: Base, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        dropped = dropout(x)
        inner = scaled(base.times(dropped, c.lora_a), self.scale)
        if dropped is x:
            return c.gain * base.plus(x, inner, c.lora_b)
        return base(x) + (c.gain - 1) * base(dropped) + c.gain * matmul(inner, c.lora_b)

    def delta(self, K: Any, v: SimpleNamespace, form: str) -> Any:
        c = SimpleNamespace(**self.coefficients(v, form, lambda: K))
        return (c.gain - 1) * K + c.gain * super().delta(K, v, form)

    low_rank = Method.low_rank  # DoRA has no low-rank form
