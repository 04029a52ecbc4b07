"""A router of experts inside a kernel.

g = softmax(x W_g + b_g)        W_g (m, k), b_g (k,) or none
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from keras import ops

from keras_svd_adapters.methods.algebra import softmax
from keras_svd_adapters.methods.contract import Base
from keras_svd_adapters.methods.method import Method

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
