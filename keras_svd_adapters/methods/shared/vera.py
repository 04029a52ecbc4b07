"""VeRA: two vectors per kernel around one frozen random pair that all kernels share.

    K' = K + A diag(d) B diag(b)      A = A_shared[:m],  B = B_shared[:, :n],  d = 0.1,  b = 0

Kopiczko et al. 2023, arXiv:2310.11454. The paper does not say how kernels of several sizes share a
pair. As in HF PEFT, the pair fits the largest kernel, and each kernel reads the leading part of the
pair. Both matrices start uniform in +-sqrt(6 / fan). The fan is the number of rows of A_shared for
A, and the rank for B.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, sqrt
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.algebra import matmul
from keras_svd_adapters.methods.contract import Array, Base, Dropout
from keras_svd_adapters.methods.hyperparameters import check_below_one, check_seed
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.methods.random_bases import PortableRandom


@dataclass(frozen=True, repr=False)
class VeRA(Method):
    """Vector-based random matrix adaptation: train `rank + n` values per kernel.

    All layers that one call adapts share one random pair, and so do layers
    adapted later. The pair costs as many operations as LoRA of the same rank. A
    layer that is adapted by itself has its own pair.

    Args:
        rank: Integer, the rank of the random pair, which may exceed the rank of
            a kernel. The paper uses 256 to 1024.
        d_initial: Float, the start of the vector between the two matrices. The
            paper uses 0.1 and less.
        dropout: Float in [0, 1), the dropout rate for the input of the branch
            only.
        seed: Integer, the seed of the random pair: the same numbers on every
            backend and platform. All VeRA adapters of a model share one pair.
        save_projections: Boolean. Whether an adapter file stores the pair, or
            only the seed.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.VeRA(rank=256).trainable_count(384, 1536)
    1792

    The paper's learning rates are about ten times LoRA's: 4e-3 for language
    models, 2e-2 to 7e-2 for image classification. The paper uses a separate
    rate for the head.

    Reference:
        - [Kopiczko et al., 2023](https://arxiv.org/abs/2310.11454)
    """

    rank: int = 256
    d_initial: float = 0.1
    dropout: float = 0.0
    seed: int = 0
    save_projections: bool = True

    name: ClassVar[str] = "vera"
    shared_by: ClassVar[tuple[str, ...]] = ("rank", "seed")

    def __post_init__(self) -> None:
        if type(self.rank) is not int or self.rank < 1:
            raise ValueError(f"`rank` must be a positive integer. Received: rank={self.rank!r}")
        check_seed(self.seed)
        check_below_one(dropout=self.dropout)
        if self.d_initial == 0 or not isfinite(self.d_initial):
            raise ValueError(
                "`d_initial` must be a number other than zero: at zero, no value would ever "
                f"change. Received: d_initial={self.d_initial!r}"
            )

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-2

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        kept = {"dtype": "compute", "saved": self.save_projections, "shared": True}
        return {
            "lambda_d": Array((self.rank,), trainable=True, start=self.d_initial),
            "lambda_b": Array((n,), trainable=True, start=0.0, axes="n"),
            "vera_a": Array((m, self.rank), **kept),  # type: ignore[arg-type]
            "vera_b": Array((self.rank, n), **kept),  # type: ignore[arg-type]
        }

    def start_shared(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        draw = PortableRandom(self.seed)
        a, b = shapes["vera_a"], shapes["vera_b"]
        return {
            "vera_a": draw.uniform(a, sqrt(6 / a[0])),
            "vera_b": draw.uniform(b, sqrt(6 / self.rank)),
        }

    def apply(self, x: Any, base: Base, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        # (..., m) @ (m, r) @ (r, n)
        inner = base.times(dropout(x), c.vera_a) * c.lambda_d
        return base.plus(x, inner, c.vera_b * c.lambda_b)

    def delta(self, K: Any, v: SimpleNamespace, form: str) -> Any:
        return matmul(v.vera_a * v.lambda_d, v.vera_b * v.lambda_b)

    def low_rank(self, v: SimpleNamespace, m: int) -> tuple[Any, Any] | None:
        return v.vera_a * v.lambda_d, v.vera_b * v.lambda_b
