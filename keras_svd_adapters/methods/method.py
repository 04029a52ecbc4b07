"""Base class of all methods, with the declarations that each method makes."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.contract import (
    SVD,
    Array,
    Base,
    Dropout,
    Kernel,
    Prompt,
    Truncation,
)
from keras_svd_adapters.methods.hyperparameters import Configured
from keras_svd_adapters.methods.hyperparameters import check_rank as check_rank
from keras_svd_adapters.methods.statistics import Statistics


@dataclass(frozen=True, repr=False)
class Method(Configured):
    """Base class of the methods: an immutable value that holds the algebra.

    A method depends only on an `(m, n)` kernel `K` in Keras order, `y = x K`, and on its own
    hyperparameters. Layers, files, dtypes and models are unknown to a method. `form` names one of
    several equivalent ways to compute the same function. Methods with a single form ignore `form`.

    Class attributes:

    - `adapts`: `"kernels"`; or vectors, which are kernels of one row: `"biases"`, or `"norms"`, the
      scales and shifts of normalizations; or `"attention"`, where `base` is an `Attention`; or
      `"tokens"`, rows beyond a table that `prompt` counts.
    - `needs_svd`: whether `start` needs the decomposition.
    - `basis_matters`: whether the trained values are valid only with the same singular vectors.
    - `forms`: the values that `form` may return.
    - `lookup_form`: the form for an embedding, or `None` if the method adapts no embedding.
    - `linear`: the trained arrays, with the values at which `K' - K` is 0, if `K' - K` is linear in
      all trained arrays.
    - `tied_by_layer`: whether tied arrays belong to the kernel and the bias of a layer, not to all.
    - `mean_penalty`: whether the penalties are averaged over all arrays of an adapter that declare
      one, instead of summed.
    - `draws_alike`: whether all kernels of an adapter draw the same numbers, from the seed `seed`.
    - `depends_on_input`: a clause that says how `apply` weighs its arrays by the input, if it does.
      There is then no `K' - K` and no `delta`: what needs one is refused with this clause.
    - `schedule`: the public name of the callback, or of the rule of an optimizer, that the method
      needs in training; `fit` without it warns.
    - `shared_by`: the hyperparameters that must be equal in all adapters of a model that share
      arrays.
    """

    name: ClassVar[str]
    adapts: ClassVar[str] = "kernels"
    needs_svd: ClassVar[bool] = False
    basis_matters: ClassVar[bool] = False
    forms: ClassVar[tuple[str, ...]] = ("additive",)
    lookup_form: ClassVar[str | None] = None
    prompt: ClassVar[Prompt | None] = None
    tied_by_layer: ClassVar[bool] = False
    mean_penalty: ClassVar[bool] = False
    draws_alike: ClassVar[bool] = False
    depends_on_input: ClassVar[str] = ""
    schedule: ClassVar[str] = ""
    shared_by: ClassVar[tuple[str, ...]] = ()
    linear: ClassVar[dict[str, float]] = {}
    registry: ClassVar[dict[str, type[Method]]] = {}

    def __init_subclass__(cls) -> None:
        if "name" in vars(cls):
            Method.registry[cls.name] = cls

    @property
    def recommended_learning_rate(self) -> float:
        """Learning rate at which this method learns with Adam and similar optimizers."""
        raise NotImplementedError

    @property
    def tied(self) -> tuple[str, ...]:
        """The trained arrays that all kernels of an adapter read, if their shapes are equal.

        If `start` computes their values, these must be the same for all kernels of a shape.
        """
        return ()

    @property
    def truncation(self) -> Truncation | None:
        """Part of the decomposition that is sufficient, or `None` for all of it."""
        return None

    @property
    def needs(self) -> tuple[str, ...]:
        """The fields of `Statistics` that `first_values` reads; the file then holds its arrays."""
        return ()

    @property
    def components(self) -> int:
        """The number of principal components of the inputs that the method needs, if any."""
        return 0

    @property
    def starts_at_base(self) -> bool:
        """Whether the adapted model equals the base model at step 0."""
        return True

    @property
    def restarts(self) -> int:
        """How often the method can begin again, on top of what it learned."""
        return 0

    def check(self, m: int, n: int) -> None:
        """Raise `ValueError` if this method cannot adapt an `(m, n)` kernel."""

    def adapts_bias(self, m: int, n: int) -> bool:
        """Return whether the bias of a layer is adapted like its `(m, n)` kernel, as one row."""
        return False

    def form(self, m: int, n: int, s: np.ndarray | None = None) -> str:
        """Return the form for an `(m, n)` kernel with singular values `s`."""
        return "additive"

    def patch_form(self, m: int, n: int, s: np.ndarray | None = None) -> str:
        """Return the form if only `base` and `base.times` may read `x`, as for image patches."""
        return self.form(m, n, s)

    def reads_kernel(self, form: str) -> bool:
        """Return whether `apply` reads K; the kernel may leave the device if not."""
        return True

    @property
    def beside_form(self) -> str:
        """Form for a quantized `base(x)`: the method reads `x` itself and adds to `base(x)`."""
        return self.forms[0]

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        """Return the arrays of one adapted kernel, trained arrays first."""
        raise NotImplementedError

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        """Return initial values of the arrays that declare no `start`; extra values are ignored.

        `K` is the kernel. `svd` is its decomposition, if the method needs one.
        """
        return {}

    def first_values(
        self,
        K: np.ndarray,
        form: str,
        rng: np.random.Generator,
        svd: SVD | None,
        data: Statistics,
    ) -> dict[str, np.ndarray]:
        """Return what `start` does, from statistics of data as well if the method needs any."""
        return self.start(K, form, rng, svd)

    def allocated(
        self, shapes: list[tuple[int, int]], data: list[list[Statistics]]
    ) -> list[Method | None]:
        """Return the method of each kernel that was to have this one; `None` leaves a kernel out.

        `shapes` holds the shape of each kernel as a matrix. `data` holds what was found for each,
        for all of its matrices.
        """
        return [self] * len(shapes)

    def draws(self, m: int, n: int, form: str) -> dict[str, tuple[int, ...]]:
        """Return shapes of numbers that `v` also holds, uniform in (0, 1) and new in each call.

        Outside of training, and for layers that read their kernel, all of them are 1/2.
        """
        return {}

    def follow(self, K: np.ndarray, v: SimpleNamespace) -> dict[str, np.ndarray]:
        """Return the arrays, except `U`, `s` and `Vt`, that change when the kernel becomes `K`."""
        return {}

    def start_shared(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        """Return values of the shared arrays; the shapes hold the part of every kernel."""
        return {}

    def coefficients(self, v: SimpleNamespace, form: str, kernel: Kernel) -> dict[str, Any]:
        """Return the arrays that `apply` needs, computed in float32; `kernel()` is K in float32."""
        return vars(v)

    def apply(self, x: Any, base: Base, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        """Return `x K'`: `(..., m)` to `(..., n)`, in the compute dtype."""
        raise NotImplementedError

    def input_penalty(self, x: Any, base: Base, c: SimpleNamespace, form: str) -> Any:
        """Return a scalar in float32 that each call in training adds to the loss, or `None`."""
        return None

    def gates(self, x: Any, base: Base, c: SimpleNamespace) -> Any:
        """Return the weights of the experts in float32, `(..., k)`, if a router makes some."""
        return None

    def delta(self, K: Any, v: SimpleNamespace, form: str) -> Any:
        """Return `K' - K`, an `(m, n)` matrix in float32."""
        raise NotImplementedError

    def low_rank(self, v: SimpleNamespace, m: int) -> tuple[Any, Any] | None:
        """Return `(m, r)` and `(r, n)` arrays with product `K' - K`, or `None` if there are none.

        `v` holds the values of one kernel on the host. `m` is the number of rows of the kernel.
        """
        return None

    def of_product(self, left: np.ndarray, right: np.ndarray) -> dict[str, np.ndarray] | None:
        """Return arrays with which `K' - K` is a product of `(m, q)` and `(q, n)` arrays.

        `None` if the method cannot, or not for this `q`.
        """
        return None

    def pruned(self, v: SimpleNamespace, share: float | None) -> dict[str, np.ndarray]:
        """Return masks that keep a share of what the adapter of a kernel learned, by size.

        `v` holds the values of one kernel on the host. Without a share, a method may have a rule of
        its own. A method without masks, or without a rule, returns none.
        """
        return {}

    def did_restart(self, v: SimpleNamespace, time: int) -> bool:
        """Return whether restart `time` took place; the first one has number 0."""
        return False

    def restarted(
        self, v: SimpleNamespace, time: int, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Return the arrays that restart `time` changes, on the host; `K'` stays the same."""
        return {}

    def trainable_count(self, m: int, n: int) -> int:
        """Return the number of trained values for an `(m, n)` kernel."""
        arrays = self.arrays(m, n, self.form(m, n)).values()
        return sum(int(np.prod(array.shape)) for array in arrays if array.trainable)
