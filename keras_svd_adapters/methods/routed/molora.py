"""MoLoRA: a mixture of LoRAs, which a router weighs for each input.

    y = x K + c sum_i softmax(x W_g + b_g)_i x A_i B_i        A_i (m, r), B_i (r, n),  c = alpha / r

Zadouri et al. 2023, arXiv:2309.05444. The router starts at N(0, 0.02), with a bias of 0; B at zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from keras_svd_adapters.methods.contract import SVD, Array
from keras_svd_adapters.methods.routed.routed_lora import RoutedLoRA
from keras_svd_adapters.methods.routed.router import SPREAD


@dataclass(frozen=True, repr=False)
class MoLoRA(RoutedLoRA):
    """Mixture of LoRAs: a router weighs all of them for each input.

    The method trains `experts * (rank * (m + n) + m + 1)` values per `(m, n)`
    kernel. It cannot be merged, since the change depends on the input.

    Args:
        rank: Integer, the rank of each LoRA. The paper uses 4.
        experts: Integer, the number of LoRAs. The paper uses 10.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` is a
            scale of 1.
        dropout: Float in [0, 1), the dropout rate for the input of the LoRAs
            only; the router sees all of the input.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.MoLoRA(rank=4, experts=10).trainable_count(384, 1536)
    80650

    Reference:
        - [Zadouri et al., 2023](https://arxiv.org/abs/2309.05444)
    """

    name: ClassVar[str] = "molora"

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        bias = Array((self.experts,), trainable=True, start=0.0)
        return super().arrays(m, n, form) | {"gate_bias": bias}

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        gate = SPREAD * rng.normal(size=(len(K), self.experts))
        return super().start(K, form, rng, svd) | {"gate": gate}
