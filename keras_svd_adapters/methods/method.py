"""What every method states about itself, and nothing else."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.contract import SVD, Array, Base, Dropout, Kernel, Truncation


@dataclass(frozen=True)
class Method:
    """Base class of the methods: an immutable value that holds the algebra.

    A method knows an `(m, n)` kernel `K` in Keras order, `y = x K`, and its own
    hyperparameters. It knows nothing of layers, files, dtypes or models.
    `form` names one of several equal ways to compute the same function; methods
    that have only one ignore it.

    Class attributes: `needs_svd`, whether `start` wants the decomposition;
    `basis_matters`, whether the trained values mean something only between
    these very factors; `forms`, what `form` may return; `lookup_form`, the
    one for an embedding, `None` if the method adapts none; `linear`, the
    trained arrays in which `K' - K` is linear, with the values at which it is 0,
    where these are all; `shared_by`, the
    hyperparameters in which all adapters of a model that share arrays must
    agree.
    """

    name: ClassVar[str]
    needs_svd: ClassVar[bool] = False
    basis_matters: ClassVar[bool] = False
    forms: ClassVar[tuple[str, ...]] = ("additive",)
    lookup_form: ClassVar[str | None] = None
    shared_by: ClassVar[tuple[str, ...]] = ()
    linear: ClassVar[dict[str, float]] = {}
    registry: ClassVar[dict[str, type[Method]]] = {}

    def __init_subclass__(cls) -> None:
        if "name" in vars(cls):
            Method.registry[cls.name] = cls

    @property
    def recommended_learning_rate(self) -> float:
        """A rate for Adam and its kin at which this method learns."""
        raise NotImplementedError

    @property
    def truncation(self) -> Truncation | None:
        """What part of the decomposition is enough, `None` for all of it."""
        return None

    def check(self, m: int, n: int) -> None:
        """Raises `ValueError` where this method cannot adapt an `(m, n)` kernel."""

    def form(self, m: int, n: int, s: np.ndarray | None = None) -> str:
        """The formulation for an `(m, n)` kernel with singular values `s`."""
        return "additive"

    def patch_form(self, m: int, n: int, s: np.ndarray | None = None) -> str:
        """As `form`, where only `base` and `base.times` may read `x`: the patches of an image."""
        return self.form(m, n, s)

    @property
    def beside_form(self) -> str:
        """As `form`, where `base(x)` is quantized: the method adds to it, and reads `x` itself."""
        return self.forms[0]

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        """The arrays of one adapted kernel, trained ones first."""
        raise NotImplementedError

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        """Initial values of the arrays that declare no `start`; more are ignored.

        `K` is the kernel, and `svd` its decomposition if the method needs one.
        """
        return {}

    def follow(self, K: np.ndarray, v: SimpleNamespace) -> dict[str, np.ndarray]:
        """The arrays that must change, besides `U`, `s` and `Vt`, when the kernel became `K`."""
        return {}

    def start_shared(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        """Values of the shared arrays, of shapes that hold every kernel's part."""
        return {}

    def coefficients(self, v: SimpleNamespace, form: str, kernel: Kernel) -> dict[str, Any]:
        """The arrays as `apply` wants them, computed in float32; `kernel()` is K in float32."""
        return vars(v)

    def apply(self, x: Any, base: Base, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        """`x K'`: `(..., m)` to `(..., n)`, in the compute dtype."""
        raise NotImplementedError

    def delta(self, K: Any, v: SimpleNamespace, form: str) -> Any:
        """`K' - K`, an `(m, n)` matrix in float32."""
        raise NotImplementedError

    def low_rank(self, v: SimpleNamespace, m: int) -> tuple[Any, Any] | None:
        """`(m, r)` and `(r, n)` arrays whose product is `K' - K`, if the method has such.

        `v` holds the values of one kernel, on the host, and `m` is its number of rows.
        """
        return None

    def trainable_count(self, m: int, n: int) -> int:
        """Number of trained values for an `(m, n)` kernel."""
        arrays = self.arrays(m, n, self.form(m, n)).values()
        return sum(int(np.prod(array.shape)) for array in arrays if array.trainable)

    def get_config(self) -> dict[str, Any]:
        """The hyperparameters that differ from their defaults."""
        values = {f: getattr(self, f.name) for f in fields(self)}
        return {
            f.name: value.item() if isinstance(value, np.generic) else value
            for f, value in values.items()
            if f.default is MISSING or value != f.default
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Method:
        """The method with these hyperparameters."""
        return cls(**config)

    def __str__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({shown})"

    __repr__ = __str__


def check_rank(rank: int, m: int, n: int) -> None:
    """Raises where a rank exceeds that of an `(m, n)` kernel."""
    if rank > min(m, n):
        raise ValueError(
            f"A kernel of shape ({m}, {n}) has rank {min(m, n)} at the most: use "
            f"`rank={min(m, n)}` or less, or leave this layer out with `exclude`. "
            f"Received: rank={rank}"
        )
