"""LoRETTA: LoRA whose two matrices are tensor trains.

    K' = K + c A B        A (m, r), B (r, n) trains of small cores of rank t,  c = alpha / r

Yang et al. 2024, arXiv:2402.11417, the variant LoRETTA_rep. The authors' start is random in all
cores, away from the base model. Here the last core of B starts at 0, so that the model starts at
the base. Sizes of cores are the authors' for their widths, else balanced factors of the size.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.contract import SVD, Array, Kernel
from keras_svd_adapters.methods.hyperparameters import check_positive_integers
from keras_svd_adapters.methods.low_rank_update import LowRankUpdate
from keras_svd_adapters.methods.ranked import Ranked
from keras_svd_adapters.methods.tensor_train import (
    check_train,
    core_shapes,
    train_product,
    train_sizes,
)


@dataclass(frozen=True, repr=False)
class LoRETTA(LowRankUpdate, Ranked):
    """Low-rank economic tensor-train adaptation.

    A `(768, 768)` kernel has 1,160 values at the defaults, where LoRA of rank 8
    has 12,288.

    Args:
        rank: Integer, the rank of the update.
        tt_rank: Integer, the rank t of the tensor trains.
        alpha: Float, numerator of the scale `c = alpha / rank`. `None` is a
            scale of 1; the authors use 16 at rank 8.

    Raises:
        ValueError: If a hyperparameter is out of its range, or a size of a
            kernel has a prime factor above 16, so that a core would be as large
            as the matrix.

    Example:

    >>> keras_svd_adapters.methods.LoRETTA(rank=8).trainable_count(768, 768)
    1160

    Reference:
        - [Yang et al., 2024](https://arxiv.org/abs/2402.11417)
    """

    rank: int = 8
    tt_rank: int = 5
    alpha: float | None = None

    name: ClassVar[str] = "loretta"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive_integers(tt_rank=self.tt_rank)

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-3

    def check(self, m: int, n: int) -> None:
        super().check(m, n)
        check_train(m, n)

    def cores(self, m: int, n: int) -> dict[str, tuple[int, int, int]]:
        """Return the shape of each core by its name."""
        return {
            f"tt_{side}_{i}": shape
            for side, size in (("a", m), ("b", n))
            for i, shape in enumerate(core_shapes(train_sizes(size * self.rank), self.tt_rank))
        }

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        cores = self.cores(m, n)
        zero = list(cores)[-1]
        arrays = {
            name: Array(shape, trainable=True, start=0.0 if name == zero else None)
            for name, shape in cores.items()
        }
        return arrays | {
            "row": Array((m,), dtype="int32", axes="m"),
            "column": Array((n,), dtype="int32", axes="n"),
        }

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        m, n = K.shape
        start = {"row": np.arange(m), "column": np.arange(n)}
        for side, size in (("a", m), ("b", n)):
            shapes = {k: s for k, s in self.cores(m, n).items() if k.startswith(f"tt_{side}")}
            spread = (1 / (size + self.rank)) ** (0.5 / len(shapes))
            for name, shape in list(shapes.items())[: None if side == "a" else -1]:
                start[name] = rng.normal(scale=spread / shape[2] ** 0.5, size=shape)
        return start

    def factors(self, v: SimpleNamespace, kernel: Kernel) -> tuple[Any, Any]:
        m, n, arrays = v.row.shape[0], v.column.shape[0], vars(v)
        a, b = (
            [arrays[name] for name in arrays if name.startswith(f"tt_{side}_")] for side in "ab"
        )
        return self.scale * train_product(a, (m, self.rank)), train_product(b, (self.rank, n))
