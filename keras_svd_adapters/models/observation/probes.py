"""Probes: methods that change nothing and show what passes a kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

from keras import ops

from keras_svd_adapters.methods.contract import Array, Base, Dropout
from keras_svd_adapters.methods.method import Method

Record = Callable[[Any], None]


@dataclass(frozen=True, repr=False)
class InputProbe(Method):
    """Passes on the inputs of a kernel as rows, `(..., m)`, and the outputs of its branch.

    Args:
        compute: Function from the inputs and the operation of the layer to the outputs.
        record: Function that gets the inputs, or `None`.
        record_branch: Function that gets what the active adapter adds to the outputs, or `None`.
        branch: Function from the inputs and the operation of the layer to what is added.
    """

    compute: Callable[[Any, Base], Any]
    record: Record | None = None
    record_branch: Record | None = None
    branch: Callable[[Any, Base], Any] | None = None

    forms: ClassVar[tuple[str, ...]] = ("rows", "patches")
    lookup_form: ClassVar[str | None] = "rows"

    def form(self, m: int, n: int, s: Any = None) -> str:
        return "rows"

    def patch_form(self, m: int, n: int, s: Any = None) -> str:
        return "patches"

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        return {}

    def apply(self, x: Any, base: Base, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        if self.record is not None:
            rows = x if form == "rows" else base.times(x, ops.eye(base.shape[0], dtype=x.dtype))
            self.record(rows)
        if self.record_branch is not None and self.branch is not None:
            self.record_branch(self.branch(x, base))
        return self.compute(x, base)


@dataclass(frozen=True, repr=False)
class GradientProbe(Method):
    """Adds a matrix to a kernel: its gradient is that of the kernel.

    Args:
        is_moved: Whether the matrix is other than 0, as an adapter made it. It is then added to the
            outputs, since a sum with a kernel in bfloat16 would lose a small one.
    """

    is_moved: bool = False

    forms: ClassVar[tuple[str, ...]] = ("beside", "additive")
    lookup_form: ClassVar[str | None] = "beside"

    def form(self, m: int, n: int, s: Any = None) -> str:
        return "beside" if self.is_moved else "additive"

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        return {"change": Array((m, n), trainable=True, start=0.0, axes="mn")}

    def apply(self, x: Any, base: Base, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        if form == "additive":
            return base(x, c.change)
        return base(x) + base.times(x, c.change)  # a quantized kernel, a table, or a moved one

    def delta(self, K: Any, v: SimpleNamespace, form: str) -> Any:
        return v.change
