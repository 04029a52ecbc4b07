"""The form of all bottleneck adapters.

    y' = y + c (f(u W_down + b_down) W_up + b_up)        W_down (., s), W_up (s, n)

`y = x K` is the output of the kernel, and `u` is `y` or `x`. `W_up` and `b_up` start at 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from keras import ops

from keras_svd_adapters.methods.contract import SVD, Array, Kernel
from keras_svd_adapters.methods.hyperparameters import (
    check_below_one,
    check_choice,
    check_positive,
    check_positive_integers,
)
from keras_svd_adapters.methods.kaiming import kaiming
from keras_svd_adapters.methods.method import Method

ACTIVATIONS = {
    "relu": ops.relu,
    "gelu": partial(ops.gelu, approximate=False),
    "silu": ops.silu,
    "tanh": ops.tanh,
}


@dataclass(frozen=True, repr=False)
class Bottleneck(Method):
    """Base class of the bottleneck adapters, with their common hyperparameters."""

    size: int = 16
    activation: str = "relu"
    scale: float = 1.0
    train_scale: bool = False
    dropout: float = 0.0

    depends_on_input: ClassVar[str] = "its network is not linear"

    def __post_init__(self) -> None:
        check_positive_integers(size=self.size)
        check_choice("activation", self.activation, ACTIVATIONS)
        check_positive(scale=self.scale)
        check_below_one(dropout=self.dropout)

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-3

    def inputs(self, m: int, n: int) -> tuple[int, str]:
        """Return the size of `u`, and its axis: `m` or `n`."""
        raise NotImplementedError

    def matrices(self, m: int, n: int) -> dict[str, Array]:
        """Return the arrays that `W_down` and `W_up` are made of."""
        size, axis = self.inputs(m, n)
        return {
            "down": Array((size, self.size), trainable=True, axes=f"{axis}."),
            "up": Array((self.size, n), trainable=True, start=0.0, axes=".n"),
        }

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        arrays = self.matrices(m, n) | {
            "down_bias": Array((self.size,), trainable=True, start=0.0),
            "up_bias": Array((n,), trainable=True, start=0.0, axes="n"),
        }
        if self.train_scale:
            arrays["scale"] = Array((1,), trainable=True, start=self.scale)
        return arrays

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        size, _ = self.inputs(*K.shape)
        return {"down": kaiming(rng, (size, self.size))}

    def network(self, v: SimpleNamespace) -> tuple[Any, Any]:
        """Return `W_down` and `W_up`, in float32."""
        return v.down, v.up

    def coefficients(self, v: SimpleNamespace, form: str, kernel: Kernel) -> dict[str, Any]:
        down, up = self.network(v)
        scale = v.scale if self.train_scale else self.scale
        scaled = {"up": scale * up, "up_bias": scale * v.up_bias}
        return vars(v) | {"down": down} | scaled

    def hidden(self, product: Any, c: SimpleNamespace) -> Any:
        """Return the values within the network, given `u W_down`."""
        return ACTIVATIONS[self.activation](product + c.down_bias)
