"""MoLA: a router chooses the best few of several LoRAs for each input, and balances their load.

    p = softmax(x W_g),  g = p on the k largest, divided by their sum, else 0; if k = 1, not divided
    y = x K + c sum_i g_i x A_i B_i        A_i (m, r), B_i (r, n), W_g (m, e),  c = alpha / r
    loss += w e sum_i f_i P_i              f_i share of the choices, P_i mean of p_i

Gao et al. 2024, arXiv:2402.08562, which gives higher layers more experts; the balance is that of
Fedus et al. 2021, arXiv:2101.03961. Shapes are static, so all experts compute, and those that are
not chosen are multiplied by 0. The weight of the balance is not in the sources that we read; 0.001
is that of MixLoRA (arXiv:2404.15159). The losses of all kernels are added up.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

from keras_svd_adapters.methods.contract import Base
from keras_svd_adapters.methods.hyperparameters import (
    check_not_negative,
    check_positive_integers,
)
from keras_svd_adapters.methods.routed.routed_lora import RoutedLoRA
from keras_svd_adapters.methods.routed.router import balance, top_gates, top_share


@dataclass(frozen=True, repr=False)
class MoLA(RoutedLoRA):
    """Mixture of LoRAs: a router chooses the best few of them for each input.

    The method trains `experts * (rank * (m + n) + m)` values per `(m, n)`
    kernel. It cannot be merged, since the change depends on the input.

    Args:
        rank: Integer, the rank of each LoRA. The paper uses 8.
        experts: Integer, the number of LoRAs. The paper uses 2 in the lowest
            quarter of the layers, then 4, 6 and 8:
            `rank_by_depth(model, 2, 8, MoLA(), field="experts")`.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` is a
            scale of 1.
        dropout: Float in [0, 1), the dropout rate for the input of the LoRAs
            only; the router sees all of the input.
        top_k: Integer, how many LoRAs compute for an input. The weight of a
            single one is its probability, as in the Switch Transformer.
        balance: Float, the weight of the load-balance loss of a kernel, which
            `fit` adds. It is 1 if all LoRAs have an equal load. Rows of padding count.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.MoLA(rank=4, experts=4).trainable_count(384, 1536)
    32256

    Reference:
        - [Gao et al., 2024](https://arxiv.org/abs/2402.08562)
        - [Fedus et al., 2021](https://arxiv.org/abs/2101.03961)
    """

    top_k: int = 2
    balance: float = 1e-3

    name: ClassVar[str] = "mola"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive_integers(top_k=self.top_k)
        check_not_negative(balance=self.balance)
        if self.top_k > self.experts:
            raise ValueError(
                "The router cannot choose more LoRAs than there are: use fewer, or more `experts`. "
                f"Received: top_k={self.top_k}, experts={self.experts}"
            )

    def gates(self, x: Any, base: Base, c: SimpleNamespace) -> Any:
        return top_gates(self.probabilities(x, base, c), self.top_k)

    def input_penalty(self, x: Any, base: Base, c: SimpleNamespace, form: str) -> Any:
        if not self.balance:
            return None
        every = self.probabilities(x, base, c)
        return self.balance * balance(every, top_share(every, self.top_k), self.top_k)
