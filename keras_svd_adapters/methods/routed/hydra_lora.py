"""HydraLoRA: one A, and several B that a router weighs for each input.

    y = x K + c sum_i softmax(x W_g)_i (x A) B_i    A (m, r), B_i (r, n), W_g (m, k),  c = alpha / r

Tian et al. 2024, arXiv:2404.19245. As in the authors' code, A and the router start uniform in
+-1/sqrt(m), and B at zero. The router has no balance loss: all B compute for each input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from keras_svd_adapters.methods.routed.routed_lora import RoutedLoRA


@dataclass(frozen=True, repr=False)
class HydraLoRA(RoutedLoRA):
    """LoRA with one A and several B, which a router weighs for each input.

    The method trains `rank * (m + experts * n) + experts * m` values per
    `(m, n)` kernel. It cannot be merged, since the change depends on the input.

    Args:
        rank: Integer, the rank of each expert. The paper uses 4, with an alpha of 32.
        experts: Integer, the number of B. The paper uses 4.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` is a
            scale of 1.
        dropout: Float in [0, 1), the dropout rate for the input of A only; the
            router sees all of the input.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.HydraLoRA(rank=4).trainable_count(384, 1536)
    27648

    Reference:
        - [Tian et al., 2024](https://arxiv.org/abs/2404.19245)
    """

    name: ClassVar[str] = "hydra_lora"
    has_one_a: ClassVar[bool] = True
