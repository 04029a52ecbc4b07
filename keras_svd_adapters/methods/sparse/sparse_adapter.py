"""SparseAdapter: LoRA of a large rank; most of its values are pruned once.

    K' = K + c (M_A * A) (M_B * B)        A (m, r), B (r, n) starts at 0,  c = alpha / r

He et al. 2022, arXiv:2210.04284. A schedule keeps the values with the highest scores of all
kernels together. At the start, B is 0 and so is the gradient of A: the score |w g| is 0 everywhere,
and |w| alone would prune all of B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from keras_svd_adapters.methods.sparse.masked_lora import MaskedLoRA


@dataclass(frozen=True, repr=False)
class SparseAdapter(MaskedLoRA):
    """Sparse adapter: a larger rank for the same number of values.

    The method trains `rank * (m + n)` values per `(m, n)` kernel. A
    `SparseAdapterSchedule` keeps the part `share`, over all kernels together.

    Args:
        rank: Integer, the rank of the update.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` is a
            scale of 1.
        share: Float in (0, 1], the part of all values that is kept.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.SparseAdapter(rank=4).trainable_count(384, 1536)
    7680

    Reference:
        - [He et al., 2022](https://arxiv.org/abs/2210.04284)
    """

    rank: int = 16
    alpha: float | None = None
    share: float = 0.5

    name: ClassVar[str] = "sparse_adapter"
    schedule: ClassVar[str] = "SparseAdapterSchedule"

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-3
