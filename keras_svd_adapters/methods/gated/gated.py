"""The common form of the methods with a number for each rank.

K' = K + c A diag(mask * e) B        A (m, r), B (r, n), e (r,) trained,  mask (r,) frozen

A schedule sets `mask`, which starts at 1. A rank with a mask of 0 gets no gradient and stays off,
while a gate at 0 comes back. c keeps the rank that the adapter started with.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from keras_svd_adapters.methods.algebra import largest, transpose
from keras_svd_adapters.methods.contract import Array, Kernel
from keras_svd_adapters.methods.low_rank_update import LowRankUpdate
from keras_svd_adapters.methods.ranked import Ranked


class Gated(LowRankUpdate, Ranked):
    """Base class of the methods `K' = K + c A diag(mask * e) B`."""

    def gated_arrays(
        self,
        m: int,
        n: int,
        gate: float | None,
        b: float | None = None,
        penalty: Any = None,
        spare: int = 0,
    ) -> dict[str, Array]:
        """Return the arrays, with the starts of e and B, and a penalty of A and of B transposed."""
        r = self.rank + spare
        of_b = None if penalty is None else lambda array, v: penalty(transpose(array), v)
        return {
            "lora_a": Array((m, r), trainable=True, axes="m.", penalty=penalty),
            "gate": Array((r,), trainable=True, start=gate),
            "lora_b": Array((r, n), trainable=True, start=b, axes=".n", penalty=of_b),
            "mask": Array((r,), saved=True, start=1.0),
        }

    def gate(self, v: SimpleNamespace) -> Any:
        """Return `mask * e`."""
        return v.gate * v.mask

    def factors(self, v: SimpleNamespace, kernel: Kernel) -> tuple[Any, Any]:
        return self.scale * v.lora_a * self.gate(v), v.lora_b

    def rank_norms(self, v: SimpleNamespace) -> np.ndarray:
        """Return the norm of the update of each rank, `c |mask_i e_i| |a_i| |b_i|`, on the host."""
        a, b = (np.linalg.norm(x, axis=axis) for x, axis in ((v.lora_a, 0), (v.lora_b, 1)))
        return self.scale * np.abs(self.gate(v)) * a * b

    def pruned(self, v: SimpleNamespace, share: float | None) -> dict[str, np.ndarray]:
        return {} if share is None else {"mask": largest(self.rank_norms(v), share)}
