"""Methods that train a small core between some singular vectors.

K' = K + U_r D Vt_r        D (r, r), made from the trained arrays in float32
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from keras.ops import convert_to_numpy, convert_to_tensor

from keras_svd_adapters.methods.algebra import matmul
from keras_svd_adapters.methods.contract import Base, Dropout, Kernel
from keras_svd_adapters.methods.method import Method


class CoreUpdate(Method):
    """Base class of the methods `K' = K + U_r D Vt_r`. At the base, D is all zeros."""

    def middle(self, v: SimpleNamespace) -> Any:
        """Return D."""
        raise NotImplementedError

    def coefficients(self, v: SimpleNamespace, form: str, kernel: Kernel) -> dict[str, Any]:
        return {"U": v.U, "core": self.middle(v), "Vt": v.Vt}

    def apply(self, x: Any, base: Base, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        return base.plus(x, matmul(base.times(x, c.U), c.core), c.Vt)

    def delta(self, K: Any, v: SimpleNamespace, form: str) -> Any:
        return matmul(matmul(v.U, self.middle(v)), v.Vt)

    def low_rank(self, v: SimpleNamespace, m: int) -> tuple[Any, Any] | None:
        tensors = {name: convert_to_tensor(a, dtype="float32") for name, a in vars(v).items()}
        return v.U @ convert_to_numpy(self.middle(SimpleNamespace(**tensors))), v.Vt
