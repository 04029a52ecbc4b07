"""The algebra of LoRA: a scaled product of two thin matrices.

K' = K + c A B        A (m, r), B (r, n),  c = alpha / r,  rsLoRA: alpha / sqrt(r)
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.algebra import matmul, scaled
from keras_svd_adapters.methods.contract import SVD, Array, Base, Dropout, Kernel
from keras_svd_adapters.methods.hyperparameters import (
    check_alpha,
    check_below_one,
    check_positive_integers,
    check_rank,
)
from keras_svd_adapters.methods.kaiming import kaiming
from keras_svd_adapters.methods.method import Method


@dataclass(frozen=True, repr=False)
class ScaledProduct(Method):
    """Base class of LoRA and of the methods that share its hyperparameters."""

    rank: int = 8
    alpha: float | None = None
    rslora: bool = False
    dropout: float = 0.0

    forms: ClassVar[tuple[str, ...]] = ("additive", "lookup")
    lookup_form: ClassVar[str | None] = "lookup"

    def __post_init__(self) -> None:
        check_positive_integers(rank=self.rank)
        check_alpha(self.alpha)
        check_below_one(dropout=self.dropout)

    @property
    def scale(self) -> float:
        """The factor `c` before `A B`."""
        alpha = self.rank if self.alpha is None else self.alpha
        return alpha / (sqrt(self.rank) if self.rslora else self.rank)

    def check(self, m: int, n: int) -> None:
        check_rank(self.rank, m, n)

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        a, b = (0.0, None) if form == "lookup" else (None, 0.0)
        return {
            "lora_a": Array((m, self.rank), trainable=True, start=a, axes="m."),
            "lora_b": Array((self.rank, n), trainable=True, start=b, axes=".n"),
        }

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        if form == "lookup":
            return {"lora_b": rng.normal(size=(self.rank, K.shape[1]))}
        return {"lora_a": kaiming(rng, (len(K), self.rank))}

    def factors(self, v: SimpleNamespace) -> tuple[Any, Any]:
        """Return the two matrices of the product, in float32."""
        return v.lora_a, v.lora_b

    def coefficients(self, v: SimpleNamespace, form: str, kernel: Kernel) -> dict[str, Any]:
        left, right = self.factors(v)
        return {"left": left, "right": right}

    def apply(self, x: Any, base: Base, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        # (..., m) @ (m, r) @ (r, n)
        return base.plus(x, scaled(base.times(dropout(x), c.left), self.scale), c.right)

    def delta(self, K: Any, v: SimpleNamespace, form: str) -> Any:
        return scaled(matmul(*self.factors(v)), self.scale)

    def low_rank(self, v: SimpleNamespace, m: int) -> tuple[Any, Any] | None:
        left, right = self.factors(v)
        return scaled(left, self.scale), right
