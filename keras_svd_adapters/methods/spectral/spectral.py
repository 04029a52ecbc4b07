"""Methods that act between the singular vectors of a kernel.

    K = U diag(s) Vt,   K' = K + U C Vt,   C (k, k) small,   k = min(m, n)

Four forms compute the same `x K'`:

    two_sided   x K + ((x U) C) Vt
    input       (x + ((x U) C / s) U^T) K        m <= n: only U is stored
    output      y + ((y V / s) C) V^T, y = x K   n <= m: only Vt is stored
    factored    ((x U) (diag(s) + C)) Vt         K is not read; equal to about 1e-6

The first three keep the kernel and return exactly `x K` while C is zero. In float32 and with enough
tokens, each form computes `K' - K` once per step, for `x (K + U C Vt)`. The factored form computes
K' instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.algebra import is_float32, matmul, transpose
from keras_svd_adapters.methods.contract import SVD, Array, Base, Dropout, Kernel
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.methods.spectral.forms import break_even

Times = Callable[[Any, Any], Any]
FORMULATIONS = ("auto", "factored")


@dataclass(frozen=True, repr=False)
class Spectral(Method):
    """Base class of the methods `K' = K + U C Vt`."""

    formulation: str = field(default="auto", kw_only=True)

    needs_svd: ClassVar[bool] = True
    forms: ClassVar[tuple[str, ...]] = ("two_sided", "input", "output", "factored")

    def __post_init__(self) -> None:
        if self.formulation not in FORMULATIONS:
            raise ValueError(
                f"`formulation` must be one of {FORMULATIONS}. "
                f"Received: formulation={self.formulation!r}"
            )

    def one_sided_is_safe(self, m: int, n: int, s: np.ndarray | None) -> bool:
        """Return whether one factor suffices, by the shape and, if known, the singular values."""
        return True

    def form(self, m: int, n: int, s: np.ndarray | None = None) -> str:
        if self.formulation == "factored":
            return "factored"
        if self.one_sided_is_safe(m, n, s):
            return "input" if m <= n else "output"
        return "two_sided"

    def patch_form(self, m: int, n: int, s: np.ndarray | None = None) -> str:
        form = self.form(m, n, s)
        return "two_sided" if form == "input" else form

    def reads_kernel(self, form: str) -> bool:
        return form != "factored"

    def core(self, k: int) -> dict[str, Array]:
        """Return the arrays that make up C."""
        raise NotImplementedError

    def start_core(self, svd: SVD) -> dict[str, np.ndarray]:
        """Return initial values of the arrays of `core` that declare no `start`."""
        return {}

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        k = min(m, n)
        arrays = self.core(k) | {"s": Array((k,))}
        if form != "output":
            arrays["U"] = Array((m, k), dtype="compute", axes="m.")
        if form != "input":
            arrays["Vt"] = Array((k, n), dtype="compute", axes=".n")
        return arrays

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        assert svd is not None
        factors = {"s": svd.s}
        if form != "output":
            factors["U"] = svd.U
        if form != "input":
            factors["Vt"] = svd.Vt
        return self.start_core(svd) | factors

    def mix(self, h: Any, c: SimpleNamespace, form: str) -> Any:
        """Return `h C`, scaled as `form` requires: `(..., k)` to `(..., k)`."""
        raise NotImplementedError

    def project(
        self, x: Any, basis: Any, c: SimpleNamespace, form: str, times: Times = matmul
    ) -> Any:
        """Return `(x basis) C`: `(..., m)` to `(..., k)`."""
        return self.mix(times(x, basis), c, form)

    def apply(self, x: Any, base: Base, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        if is_float32(x) and base.tokens > break_even(*base.shape, form):
            change = self.change(base.matrix, c, form)
            return base.times(x, change) if form == "factored" else base(x, change)
        if form == "input":
            return base.shift(x, matmul(self.project(x, c.U, c, form), transpose(c.U)))
        if form == "output":
            y = base(x)
            return base.plus(x, self.project(y, transpose(c.Vt), c, form), c.Vt, y)
        if form == "factored":
            return matmul(self.project(x, c.U, c, form, base.times), c.Vt)
        return base.plus(x, self.project(x, c.U, c, form, base.times), c.Vt)

    def delta(self, K: Any, v: SimpleNamespace, form: str) -> Any:
        form = "two_sided" if form == "factored" else form
        return self.change(
            lambda: K, SimpleNamespace(**self.coefficients(v, form, lambda: K)), form
        )

    def change(self, kernel: Kernel, c: SimpleNamespace, form: str) -> Any:
        """Return `K' - K`, or `K'` itself if `factored`."""
        if form == "input":
            return matmul(self.mix(c.U, c, form), matmul(transpose(c.U), kernel()))
        if form == "output":
            return matmul(self.project(kernel(), transpose(c.Vt), c, form), c.Vt)
        return matmul(self.mix(c.U, c, form), c.Vt)
