"""MoV: a mixture of vectors that scale a kernel, which a router weighs for each input.

    y = (x K) * sum_i g_i l_i, or (x * sum_i g_i l_i) K        l_i (n,) or (m,) starts at 1
    g = softmax(x W_g + b_g)                                   W_g (m, k), b_g (k,)

Zadouri et al. 2023, arXiv:2309.05444. The router starts at N(0, 0.02), with a bias of 0. The sides
are those of (IA)3. The bias of a layer is not scaled.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from keras import ops
from keras.backend import standardize_dtype

from keras_svd_adapters.methods.algebra import matmul
from keras_svd_adapters.methods.contract import SVD, Array, Base, Dropout, Kernel
from keras_svd_adapters.methods.hyperparameters import check_choice, check_positive_integers
from keras_svd_adapters.methods.routed.router import SPREAD, Routed


@dataclass(frozen=True, repr=False)
class MoV(Routed):
    """Mixture of vectors: a router mixes several scales of the outputs or inputs.

    The method trains `experts * (n + m + 1)` values per `(m, n)` kernel, or
    `experts * (2 m + 1)` on the side of the inputs. It cannot be merged, since
    the change depends on the input.

    Args:
        experts: Integer, the number of vectors. The paper uses 10.
        side: `"output"`, or `"auto"`, which is the inputs for kernels with more
            inputs than outputs, as the second one of a feed-forward block. Of a
            convolution, `"auto"` scales the outputs.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.MoV().trainable_count(384, 1536)
    19210

    Reference:
        - [Zadouri et al., 2023](https://arxiv.org/abs/2309.05444)
    """

    experts: int = 10
    side: str = "auto"

    name: ClassVar[str] = "mov"
    forms: ClassVar[tuple[str, ...]] = ("rows", "patches")

    def __post_init__(self) -> None:
        check_positive_integers(experts=self.experts)
        check_choice("side", self.side, ("auto", "output"))

    def form(self, m: int, n: int, s: Any = None) -> str:
        return "rows"

    def patch_form(self, m: int, n: int, s: Any = None) -> str:
        return "patches"

    def scales_inputs(self, m: int, n: int, form: str) -> bool:
        """Return whether the method scales the inputs of an `(m, n)` kernel."""
        return self.side == "auto" and m > n and form == "rows"

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        size, axis = (m, "m") if self.scales_inputs(m, n, form) else (n, "n")
        return {
            "scaling": Array((self.experts, size), trainable=True, start=1.0, axes="." + axis),
            "gate": Array((m, self.experts), trainable=True, axes="m."),
            "gate_bias": Array((self.experts,), trainable=True, start=0.0),
        }

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        return {"gate": SPREAD * rng.normal(size=(len(K), self.experts))}

    def coefficients(self, v: SimpleNamespace, form: str, kernel: Kernel) -> dict[str, Any]:
        return {"change": v.scaling - 1, "gate": v.gate, "gate_bias": v.gate_bias}

    def apply(self, x: Any, base: Base, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        gates = self.gates(x, base, c)
        change = matmul(ops.cast(gates, standardize_dtype(c.change.dtype)), c.change)
        if self.scales_inputs(*base.shape, form):
            return base.shift(x, x * change)
        y = base(x)
        return y + y * change
