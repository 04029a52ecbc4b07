"""A router of experts inside a kernel, and LoRAs as its experts.

    g = softmax(x W_g + b_g)        W_g (m, k), b_g (k,) or none
    y = x K + c sum_i g_i x A_i B_i

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

from keras_svd_adapters.methods.algebra import reshape, scaled, softmax
from keras_svd_adapters.methods.contract import SVD, Array, Base, Dropout
from keras_svd_adapters.methods.hyperparameters import (
    check_below_one,
    check_positive_integers,
)
from keras_svd_adapters.methods.kaiming import kaiming
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.methods.ranked import Ranked

SPREAD = 0.02  # of the router's start in MoLoRA and MoV


class Routed(Method):
    """Base class of the methods with a router, whose array is `gate`, perhaps with `gate_bias`."""

    depends_on_input: ClassVar[str] = "its router weighs the experts for each input"

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-3

    def probabilities(self, x: Any, base: Base, c: SimpleNamespace) -> Any:
        """Return the softmax of the router, `(..., k)` in float32."""
        logits = base.times(x, c.gate)
        if hasattr(c, "gate_bias"):
            logits = logits + c.gate_bias
        return softmax(ops.cast(logits, "float32"))

    def gates(self, x: Any, base: Base, c: SimpleNamespace) -> Any:
        return self.probabilities(x, base, c)


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


def top_share(probabilities: Any, count: int) -> Any:
    """Return 1 for the `count` largest of the last axis, some of equals, else 0."""
    _, places = ops.top_k(probabilities, count)
    every = np.arange(probabilities.shape[-1], dtype="int32")
    chosen = ops.equal(ops.expand_dims(ops.cast(places, "int32"), -1), every)
    return ops.sum(ops.cast(chosen, "float32"), axis=-2)


def top_gates(probabilities: Any, count: int) -> Any:
    """Return the `count` largest of the last axis, divided by their sum, and 0 elsewhere.

    A single one stays as it is: divided by itself, it would have no gradient.
    """
    if count == probabilities.shape[-1]:
        return probabilities
    chosen = probabilities * ops.stop_gradient(top_share(probabilities, count))
    return chosen if count == 1 else chosen / ops.sum(chosen, axis=-1, keepdims=True)


def balance(probabilities: Any, chosen: Any, count: int) -> Any:
    """Return the load-balance loss of the Switch Transformer; it is 1 if all experts are equal.

    `k sum_i f_i P_i`, with the share f_i of the choices that fell on expert i, and its mean
    probability P_i.
    """
    rows = tuple(range(len(probabilities.shape) - 1))
    share = ops.stop_gradient(ops.mean(chosen, axis=rows)) / count
    return probabilities.shape[-1] * ops.sum(share * ops.mean(probabilities, axis=rows))
