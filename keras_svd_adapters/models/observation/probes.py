"""Probes: methods that change nothing and show what passes a kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

from keras import ops

from keras_svd_adapters.methods.contract import Array, Base, Dropout
from keras_svd_adapters.methods.method import Method


@dataclass(frozen=True, repr=False)
class InputProbe(Method):
    """Passes the inputs of a kernel on as rows, `(..., m)`.

    Args:
        record: Function that gets them.
    """

    record: Callable[[Any], None]

    forms: ClassVar[tuple[str, ...]] = ("rows", "patches")

    def form(self, m: int, n: int, s: Any = None) -> str:
        return "rows"

    def patch_form(self, m: int, n: int, s: Any = None) -> str:
        return "patches"

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        return {}

    def apply(self, x: Any, base: Base, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        rows = x if form == "rows" else base.times(x, ops.eye(base.shape[0], dtype=x.dtype))
        self.record(rows)
        return base(x)


@dataclass(frozen=True, repr=False)
class GradientProbe(Method):
    """Adds a matrix of zeros to a kernel; its gradient is that of the kernel."""

    forms: ClassVar[tuple[str, ...]] = ("beside", "additive")
    lookup_form: ClassVar[str | None] = "beside"

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        return {"zeros": Array((m, n), trainable=True, start=0.0, axes="mn")}

    def apply(self, x: Any, base: Base, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        if form == "additive":
            return base(x, c.zeros)
        return base(x) + base.times(x, c.zeros)  # a quantized kernel, or a table

    def delta(self, K: Any, v: SimpleNamespace, form: str) -> Any:
        return v.zeros
