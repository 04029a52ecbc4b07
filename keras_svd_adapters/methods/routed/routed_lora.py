"""LoRAs as the experts of a router inside a kernel.

    y = x K + c sum_i g_i x A_i B_i        g (k,) of the router

`lora_a` holds the A_i beside each other, `(m, k r)`, or one A, `(m, r)`; `lora_b` holds the B_i
below each other, `(k r, n)`. One product makes all `x A_i`, and one the sum over experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from keras import ops
from keras.backend import standardize_dtype

from keras_svd_adapters.methods.algebra import reshape, scaled
from keras_svd_adapters.methods.contract import SVD, Array, Base, Dropout
from keras_svd_adapters.methods.hyperparameters import check_below_one, check_positive_integers
from keras_svd_adapters.methods.kaiming import kaiming
from keras_svd_adapters.methods.ranked import Ranked
from keras_svd_adapters.methods.routed.router import Routed


@dataclass(frozen=True, repr=False)
class RoutedLoRA(Routed, Ranked):
    """Base class of the methods whose experts are LoRAs."""

    rank: int = 8
    experts: int = 4
    alpha: float | None = None
    dropout: float = 0.0

    has_one_a: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive_integers(experts=self.experts)
        check_below_one(dropout=self.dropout)

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        left = self.rank if self.has_one_a else self.experts * self.rank
        return {
            "lora_a": Array((m, left), trainable=True, axes="m."),
            "lora_b": Array((self.experts * self.rank, n), trainable=True, start=0.0, axes=".n"),
            "gate": Array((m, self.experts), trainable=True, axes="m."),
        }

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        left = self.rank if self.has_one_a else self.experts * self.rank
        return {
            "lora_a": kaiming(rng, (len(K), left)),
            "gate": kaiming(rng, (len(K), self.experts)),
        }

    def apply(self, x: Any, base: Base, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        h = scaled(base.times(dropout(x), c.lora_a), self.scale)
        gates = ops.cast(self.gates(x, base, c), standardize_dtype(h.dtype))
        leading = tuple(ops.shape(h)[:-1])
        parts = 1 if self.has_one_a else self.experts
        weighted = gates[..., None] * reshape(h, (*leading, parts, self.rank))
        h = reshape(weighted, (*leading, self.experts * self.rank))
        return base.plus(x, h, c.lora_b)
