"""A LoRA on top of the LoRAs that the same adapter trained before.

    K' = K + c (A B + P Q)        A (m, r), B (r, n) starts at 0,  P (m, R r), Q (R r, n)

    restart i:  P_i <- A,  Q_i <- B,  A drawn again,  B <- 0        (the same K')

P and Q are frozen arrays of the adapter: the kernel stays as it is, and the file is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from keras_svd_adapters.methods.algebra import concatenate
from keras_svd_adapters.methods.contract import SVD, Array, Kernel
from keras_svd_adapters.methods.kaiming import kaiming
from keras_svd_adapters.methods.low_rank_update import LowRankUpdate, lora_arrays
from keras_svd_adapters.methods.ranked import Ranked


@dataclass(frozen=True, repr=False)
class PastFactors(LowRankUpdate, Ranked):
    """Base class of the methods that begin again on top of what they learned."""

    rank: int = 8
    alpha: float | None = None

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-3

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        r, past = self.rank, self.rank * self.restarts
        return {
            **lora_arrays(m, n, r),
            "past_a": Array((m, past), saved=True, start=0.0, axes="m."),
            "past_b": Array((past, n), saved=True, start=0.0, axes=".n"),
        }

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        return {"lora_a": kaiming(rng, (len(K), self.rank))}

    def own_factors(self, v: SimpleNamespace) -> tuple[Any, Any]:
        """Return the factors A and B that train, as the past keeps them."""
        return v.lora_a, v.lora_b

    def did_restart(self, v: SimpleNamespace, time: int) -> bool:
        return bool(np.any(v.past_b[..., self._place(time), :]))

    def restarted(
        self, v: SimpleNamespace, time: int, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        place, (A, B) = self._place(time), self.own_factors(v)
        past_a, past_b = v.past_a.copy(), v.past_b.copy()
        has_learned = np.any(B, axis=(-2, -1), keepdims=True)
        past_a[..., place], past_b[..., place, :] = A * has_learned, B
        fresh = {"lora_a": kaiming(rng, A.shape), "lora_b": np.zeros_like(B)}
        return {"past_a": past_a, "past_b": past_b, **fresh}

    def factors(self, v: SimpleNamespace, kernel: Kernel) -> tuple[Any, Any]:
        A, B = self.own_factors(v)
        left = self.scale * concatenate([A, v.past_a], axis=1)
        return left, concatenate([B, v.past_b], axis=0)

    def _place(self, time: int) -> slice:
        return slice(time * self.rank, (time + 1) * self.rank)
