"""Methods that act between the singular vectors of a kernel.

    K = U diag(s) Vt,   K' = K + U C Vt,   C (k, k) small,   k = min(m, n)

Four forms compute the same `x K'`:

    two_sided   x K + ((x U) C) Vt; in float32, x (K + U C Vt) once the tokens outnumber 2 k
    input       (x + ((x U) C / s) U^T) K        m <= n: only U is stored
    output      y + ((y V / s) C) V^T, y = x K   n <= m: only Vt is stored
    factored    ((x U) (diag(s) + C)) Vt         K is not read; equal to about 1e-6

The first three keep the kernel and return exactly `x K` while C is zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from keras.backend import standardize_dtype
from keras.ops import matmul, transpose

from keras_svd_adapters.methods.method import SVD, Array, Base, Dropout, Method

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

    def one_sided_is_safe(self, s: np.ndarray) -> bool:
        """Whether dividing by these singular values keeps the precision."""
        return True

    def form(self, m: int, n: int, s: np.ndarray | None = None) -> str:
        if self.formulation == "factored":
            return "factored"
        if 2 * min(m, n) <= max(m, n) and (s is None or self.one_sided_is_safe(s)):
            return "input" if m <= n else "output"
        return "two_sided"

    def core(self, k: int) -> dict[str, Array]:
        """The arrays that make up C."""
        raise NotImplementedError

    def start_core(self, svd: SVD) -> dict[str, np.ndarray]:
        """Initial values of those that declare no `start`."""
        return {}

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        k = min(m, n)
        arrays = self.core(k) | {"s": Array((k,))}
        if form != "output":
            arrays["U"] = Array((m, k), dtype="compute")
        if form != "input":
            arrays["Vt"] = Array((k, n), dtype="compute")
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
        """`h C`, scaled as `form` wants it: `(..., k)` to `(..., k)`."""
        raise NotImplementedError

    def project(self, x: Any, basis: Any, c: SimpleNamespace, form: str) -> Any:
        """`(x basis) C`: `(..., m)` to `(..., k)`."""
        return self.mix(matmul(x, basis), c, form)

    def apply(self, x: Any, base: Base, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        if form == "input":
            return base(x + matmul(self.project(x, c.U, c, form), transpose(c.U)))
        if form == "output":
            y = base(x)
            return y + matmul(self.project(y, transpose(c.Vt), c, form), c.Vt)
        if form == "factored":
            return matmul(self.project(x, c.U, c, form), c.Vt)
        if many_tokens(x, 2 * c.U.shape[-1]) and is_float32(x):
            return base(x, matmul(self.mix(c.U, c, form), c.Vt))
        return base(x) + matmul(self.project(x, c.U, c, form), c.Vt)

    def delta(self, K: Any, v: SimpleNamespace, form: str) -> Any:
        form = "two_sided" if form == "factored" else form
        c = SimpleNamespace(**self.coefficients(v, form, lambda: K))
        if form == "input":
            return matmul(matmul(self.mix(c.U, c, form), transpose(c.U)), K)
        if form == "output":
            return matmul(self.project(K, transpose(c.Vt), c, form), c.Vt)
        return matmul(self.mix(c.U, c, form), c.Vt)


def is_float32(x: Any) -> bool:
    """Whether a kernel plus a small delta keeps the delta."""
    return bool(standardize_dtype(x.dtype) == "float32")


def many_tokens(x: Any, limit: int) -> bool:
    """Whether `(..., m)` holds more than `limit` rows; open sizes count as many."""
    sizes = x.shape[:-1]
    return any(size is None for size in sizes) or prod(sizes) > limit
