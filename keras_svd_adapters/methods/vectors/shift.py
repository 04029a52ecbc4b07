"""A trained difference from a vector: the algebra that BitFit and LN tuning share."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

from keras_svd_adapters.methods.contract import Array, Base, Dropout
from keras_svd_adapters.methods.method import Method


@dataclass(frozen=True, repr=False)
class Shift(Method):
    """Adds `shift` to a vector, which is a kernel of one row."""

    linear: ClassVar[dict[str, float]] = {"shift": 0.0}

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        return {"shift": Array((n,), trainable=True, start=0.0, axes="n")}

    def apply(self, x: Any, base: Base, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        return base(x, c.shift[None])

    def delta(self, K: Any, v: SimpleNamespace, form: str) -> Any:
        return v.shift[None]
