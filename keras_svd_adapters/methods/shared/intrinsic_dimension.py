"""Intrinsic dimension (SAID): one trained vector, which a random projection turns into updates.

    K' = K + w P(theta)        theta (d) tied, 0 at the start,  w = 1, or trained

Aghajanyan et al. 2020, arXiv:2012.13255. P is Fastfood: signs, a Walsh-Hadamard transform, a
permutation, random factors and a second transform, with `norm(P(theta))` about `norm(theta)`. Each
step makes its random numbers again from six integers per kernel, which the adapter file stores. The
random factors are nearly normal, and their norm is taken at its mean. The authors' gradient differs
by a factor for each kernel; this one is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from keras import remat

from keras_svd_adapters.methods.algebra import reshape
from keras_svd_adapters.methods.contract import SVD, Array, Base, Dropout, Kernel
from keras_svd_adapters.methods.fastfood import KEYS, power_of_2, projection
from keras_svd_adapters.methods.hyperparameters import check_positive_integers
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.methods.whole_update import plus_whole


@dataclass(frozen=True, repr=False)
class IntrinsicDimension(Method):
    """Train one vector for all kernels, in a random subspace of all weights.

    The method trains `size` values for the whole adapter, and one more for each
    kernel with `per_layer_scale`. It stores six integers per kernel, on the
    device and in the file. Each step makes an update as large as the kernel.

    Args:
        size: Integer, the number of trained values of the whole adapter. The
            paper uses 200 to 20,000.
        per_layer_scale: Boolean. Whether a factor of each kernel trains too.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.IntrinsicDimension(size=200).trainable_count(384, 1536)
    200

    Reference:
        - [Aghajanyan et al., 2020](https://arxiv.org/abs/2012.13255)
    """

    size: int = 1000
    per_layer_scale: bool = False

    name: ClassVar[str] = "intrinsic_dimension"
    forms: ClassVar[tuple[str, ...]] = ("additive", "patches")

    def __post_init__(self) -> None:
        check_positive_integers(size=self.size)

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-2

    @property
    def tied(self) -> tuple[str, ...]:
        return ("theta",)

    def patch_form(self, m: int, n: int, s: np.ndarray | None = None) -> str:
        return "patches"

    def check(self, m: int, n: int) -> None:
        if self.size > power_of_2(m * n):
            raise ValueError(
                f"A kernel of shape ({m}, {n}) has room for {power_of_2(m * n)} values: use as "
                "many or fewer, or leave this layer out with `exclude`. "
                f"Received: size={self.size}"
            )

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        found = {"theta": Array((self.size,), trainable=True, start=0.0)}
        if self.per_layer_scale:
            found["layer_scale"] = Array((1,), trainable=True, start=1.0)
        return found | {"keys": Array((KEYS,), dtype="int32", saved=True)}

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        return {"keys": rng.integers(-(2**31), 2**31, KEYS).astype("int32")}

    def coefficients(self, v: SimpleNamespace, form: str, kernel: Kernel) -> dict[str, Any]:
        m, n = kernel().shape
        project = remat(partial(projection, size=m * n))  # keeps no random numbers for backward
        return {"change": self.scaled(project(v.theta, v.keys), v, m, n)}

    def delta(self, K: Any, v: SimpleNamespace, form: str) -> Any:
        m, n = K.shape
        return self.scaled(projection(v.theta, v.keys, m * n), v, m, n)

    def scaled(self, values: Any, v: SimpleNamespace, m: int, n: int) -> Any:
        """Return the values as an update of an `(m, n)` kernel."""
        change = reshape(values, (m, n))
        return change * v.layer_scale if self.per_layer_scale else change

    def apply(self, x: Any, base: Base, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        return plus_whole(x, base, c.change, form)
