"""LoRA and rsLoRA.

    K' = K + c A B        A (m, r), B (r, n),  c = alpha / r,  rsLoRA: alpha / sqrt(r)

Hu et al. 2021, arXiv:2106.09685; Kalajdzievski 2023, arXiv:2312.03732. As in HF PEFT, `A` starts
uniform in +-1/sqrt(m) and `B` starts at zero. For an embedding, `A` starts at zero and `B` starts
normal. `K` is the kernel as a matrix, so the heads of an attention kernel share one rank. Keras's
own `enable_lora` differs in this.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.algebra import matmul
from keras_svd_adapters.methods.contract import SVD, Array, Base, Dropout
from keras_svd_adapters.methods.hyperparameters import (
    check_alpha,
    check_positive_integers,
    check_rank,
)
from keras_svd_adapters.methods.method import Method


@dataclass(frozen=True, repr=False)
class LoRA(Method):
    """Low-rank adaptation: add `c A B`, a product of two thin matrices.

    The method trains `rank * (m + n)` values per `(m, n)` kernel.

    Args:
        rank: Integer, the rank of the update. Papers use 4 to 64.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` sets
            alpha to `rank`, for a scale of 1. Unless alpha is set, changing the
            rank also changes the update step.
        rslora: Boolean. Whether to scale by `alpha / sqrt(rank)` instead.
        dropout: Float in [0, 1), the dropout rate for the input of the branch
            only. An embedding has no dropout.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> method = keras_svd_adapters.LoRA(rank=4)
    >>> method.trainable_count(384, 1536)
    7680

    Reference:
        - [Hu et al., 2021](https://arxiv.org/abs/2106.09685)
        - [Kalajdzievski, 2023](https://arxiv.org/abs/2312.03732)
    """

    rank: int = 8
    alpha: float | None = None
    rslora: bool = False
    dropout: float = 0.0

    name: ClassVar[str] = "lora"
    forms: ClassVar[tuple[str, ...]] = ("additive", "lookup")
    lookup_form: ClassVar[str | None] = "lookup"

    def __post_init__(self) -> None:
        check_positive_integers(rank=self.rank)
        check_alpha(self.alpha)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` must be in [0, 1). Received: dropout={self.dropout!r}")

    @property
    def scale(self) -> float:
        """The factor `c` before `A B`."""
        alpha = self.rank if self.alpha is None else self.alpha
        return alpha / (sqrt(self.rank) if self.rslora else self.rank)

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-3

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
        bound = 1 / sqrt(len(K))
        return {"lora_a": rng.uniform(-bound, bound, (len(K), self.rank))}

    def apply(self, x: Any, base: Base, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        # (..., m) @ (m, r) @ (r, n)
        return base.plus(x, self.scale * base.times(dropout(x), c.lora_a), c.lora_b)

    def delta(self, K: Any, v: SimpleNamespace, form: str) -> Any:
        return self.scale * matmul(v.lora_a, v.lora_b)

    def low_rank(self, v: SimpleNamespace, m: int) -> tuple[Any, Any] | None:
        return self.scale * v.lora_a, v.lora_b
