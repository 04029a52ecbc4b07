"""The common form of RoseLoRA and SparseAdapter: LoRA whose single values are pruned.

K' = K + c (M_A * A) (M_B * B)        A (m, r), B (r, n) trained,  M_A, M_B of 0 and 1, frozen

A schedule sets the masks, which start at 1. A value with a mask of 0 gets no gradient.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from keras_svd_adapters.methods.contract import SVD, Array, Kernel
from keras_svd_adapters.methods.hyperparameters import check_share
from keras_svd_adapters.methods.kaiming import kaiming
from keras_svd_adapters.methods.low_rank_update import LowRankUpdate, lora_arrays
from keras_svd_adapters.methods.ranked import Ranked


class MaskedLoRA(LowRankUpdate, Ranked):
    """Base class of the methods `K' = K + c (M_A * A) (M_B * B)`."""

    share: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(share=self.share)

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        r = self.rank
        return {
            **lora_arrays(m, n, r),
            "mask_a": Array((m, r), saved=True, start=1.0, axes="m."),
            "mask_b": Array((r, n), saved=True, start=1.0, axes=".n"),
        }

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        return {"lora_a": kaiming(rng, (len(K), self.rank))}

    def factors(self, v: SimpleNamespace, kernel: Kernel) -> tuple[Any, Any]:
        return self.scale * v.lora_a * v.mask_a, v.lora_b * v.mask_b
