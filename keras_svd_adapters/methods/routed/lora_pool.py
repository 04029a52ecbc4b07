"""MixLoRA (conditional mixture of LoRA): updates of rank one, chosen from a pool for each sample.

    p = softmax(mean of x over the sample W_g)        W_g (m, e)
    g = r p on the r largest, divided by their sum, else 0
    y = x K + c sum_i g_i x a_i b_i                   a_i (m, 1), b_i (1, n),  c = alpha / r

Shen et al. 2024, arXiv:2402.15896. There, two selectors choose the a_i and the b_i, the second one
perhaps by the choice of the first; here, one selector chooses pairs. The factor r makes g_i 1 if
all chosen are equal; if r = 1, g is not divided. The pool has the name LoRAPool, since other work
is called MixLoRA, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from keras import ops
from keras.backend import standardize_dtype

from keras_svd_adapters.methods.algebra import scaled, softmax
from keras_svd_adapters.methods.contract import SVD, Array, Base, Dropout
from keras_svd_adapters.methods.hyperparameters import (
    check_below_one,
    check_positive_integers,
)
from keras_svd_adapters.methods.kaiming import kaiming
from keras_svd_adapters.methods.low_rank_update import lora_arrays
from keras_svd_adapters.methods.ranked import Ranked
from keras_svd_adapters.methods.routed.router import Routed, top_gates


@dataclass(frozen=True, repr=False)
class LoRAPool(Routed, Ranked):
    """Pool of updates of rank one: a router chooses some of them for each sample.

    The method trains `pool * (2 m + n)` values per `(m, n)` kernel. It cannot
    be merged, since the change depends on the input. The choice follows the
    mean of all rows of a sample, padding included. While a language model
    generates token by token, that is the mean of the new tokens alone.

    Args:
        rank: Integer, how many updates are chosen.
        pool: Integer, how many updates there are.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` is a
            scale of 1.
        dropout: Float in [0, 1), the dropout rate for the input of the updates
            only; the router sees all of the input.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.LoRAPool(rank=4, pool=16).trainable_count(384, 1536)
    36864

    Reference:
        - [Shen et al., 2024](https://arxiv.org/abs/2402.15896)
    """

    rank: int = 8
    pool: int = 32
    alpha: float | None = None
    dropout: float = 0.0

    name: ClassVar[str] = "lora_pool"
    depends_on_input: ClassVar[str] = "its router chooses updates for each sample"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive_integers(pool=self.pool)
        check_below_one(dropout=self.dropout)
        if self.rank > self.pool:
            raise ValueError(
                "The router cannot choose more updates than there are: use a smaller `rank` or a "
                f"larger `pool`. Received: rank={self.rank}, pool={self.pool}"
            )

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        gate = Array((m, self.pool), trainable=True, axes="m.")
        return lora_arrays(m, n, self.pool) | {"gate": gate}

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        shape = (len(K), self.pool)
        return {"lora_a": kaiming(rng, shape), "gate": kaiming(rng, shape)}

    def gates(self, x: Any, base: Base, c: SimpleNamespace) -> Any:
        logits = base.sample_mean(ops.cast(base.times(x, c.gate), "float32"))
        return self.rank * top_gates(softmax(logits), self.rank)

    def apply(self, x: Any, base: Base, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        h = scaled(base.times(dropout(x), c.lora_a), self.scale)
        h = h * ops.cast(self.gates(x, base, c), standardize_dtype(h.dtype))
        return base.plus(x, h, c.lora_b)
