"""The Keras layer that carries one method's variables for one kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_svd_adapters.adapters.declared_arrays import declared_arrays
from keras_svd_adapters.adapters.in_training.draws import drawn, seed_generator_of
from keras_svd_adapters.adapters.in_training.input_penalty import add_input_penalty
from keras_svd_adapters.adapters.in_training.penalty import Penalty
from keras_svd_adapters.adapters.refit import refit_to_kernel
from keras_svd_adapters.adapters.refusals import (
    refuse_empty,
    refuse_other_arrays,
    refuse_other_shared_arrays,
    refuse_to_quantize,
    refuse_without_delta,
    refuse_without_layer,
)
from keras_svd_adapters.adapters.shared_arrays import SharedArrays
from keras_svd_adapters.adapters.stored_arrays import StoredArrays
from keras_svd_adapters.adapters.tied_arrays import TiedArrays
from keras_svd_adapters.kernels.matrix_view import KernelView
from keras_svd_adapters.kernels.stacked_map import map_stacked
from keras_svd_adapters.methods.contract import Array, Base
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.runtime.host_values import cast_float, to_float64
from keras_svd_adapters.runtime.keras_private.tracing import only_shapes_matter

SHARED_MARK, SEED_STATE, DROP_RATE = "shared_mark", "seed_state", "drop_rate"


class Adapter(StoredArrays):
    """Layer that holds the variables of a method and applies the method to a kernel.

    This class does the work that all methods share: trained values in float32,
    frozen factors in the compute dtype, the casts between them, and dropout on
    the branch. `keras_svd_adapters.enable` or one of the `*Dense` layers gives
    a layer its adapter.

    Args:
        method: A `Method`.
        view: The `KernelView` of the adapted kernel.
        form: The formulation, chosen by `method.form`.
        values: Initial values of the arrays that declare no `start`. Without
            them, the adapter raises an error until its weights are loaded.
        dtype: Dtype policy of the adapted layer.
        shared: The arrays that the model stores once for several adapters.
        name: Name of the layer. It gives the weights the same paths in every
            process.
        layout: Function from the `axes` of an `Array` to the layout of the array
            on the devices.
    """

    def __init__(
        self,
        method: Method,
        view: KernelView,
        form: str,
        values: dict[str, np.ndarray] | None = None,
        dtype: Any = None,
        shared: SharedArrays | None = None,
        name: str | None = None,
        layout: Callable[[str], Any] = lambda axes: None,
    ):
        super().__init__(dtype=dtype, name=name)
        self.method = method
        self.view = view
        self.form = form
        self.shared = shared
        self.shared_mark: bytes | None = None
        self.drop_rate: float | None = None  # of the backward pass of the branch, by `DropBP`
        self.has_values = values is not None
        self.kernel: Callable[[], Any] = refuse_without_layer
        self.computes: Callable[[], bool] = lambda: True
        self.dropout = getattr(method, "dropout", 0.0)
        self._draws = method.draws(view.m, view.n, form)
        self.seed_generator = seed_generator_of(method, self._draws)
        declared = self.declared
        arrays = {k: v for k, v in declared.items() if not v.shared}
        tied = {k: arrays.pop(k) for k in method.tied}
        self.tied = TiedArrays(method, tied, values, dtype) if tied else None
        self._array_names = tuple(arrays)
        for name, array in arrays.items():
            fill = array.start if array.start is not None else 0
            self.add_array(
                name,
                array.shape,
                self.compute_dtype if array.dtype == "compute" else array.dtype,
                fill if values is None else values.get(name, fill),
                array.trainable,
                layout(array.axes),
            )
        for name, variable in self.arrays.items():
            variable.adapted_by = method
            variable.decays = declared[name].start == 0.0
            if declared[name].penalty is not None:
                variable.regularizer = Penalty(self, name)
        self.built = True

    def array_names(self) -> tuple[str, ...]:
        return self._array_names

    @property
    def arrays(self) -> dict[str, keras.Variable]:
        """The variables by name: its own, and the tied ones."""
        return super().arrays | ({} if self.tied is None else self.tied.arrays)

    @property
    def filled(self) -> bool:
        """Whether its own arrays, the tied arrays and the shared arrays have values."""
        others = [each for each in (self.tied, self.shared) if each is not None]
        return self.has_values and all(each.has_values for each in others)

    @property
    def trained(self) -> dict[str, keras.Variable]:
        """The variables that the method declares trainable, by name; some may be frozen now."""
        declared = self.declared
        return {name: v for name, v in self.arrays.items() if declared[name].trainable}

    @property
    def declared(self) -> dict[str, Array]:
        """The arrays that the method declares, by name."""
        return declared_arrays(self.method, self.view, self.form)

    def prepared_arrays(
        self, training: bool | None = False, given: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the arrays, or some `given` ones, as `Method.apply` reads them."""
        self._check_values()
        v = self.values_of_arrays(training)
        vars(v).update(given or {})
        c = self.method.coefficients(v, self.form, self.float32_kernel)
        return {name: cast_float(value, self.compute_dtype) for name, value in c.items()}

    def adapt(
        self,
        x: Any,
        base: Base,
        training: bool | None,
        coefficients: dict[str, Any] | None = None,
    ) -> Any:
        """Compute `x K'`, `(..., m)` to `(..., n)`, in the dtype of `x`.

        With given `coefficients`, the caller adds the penalty of the inputs.
        """
        if coefficients is None:
            coefficients = self.prepared_arrays(training)
            add_input_penalty(self, x, base, coefficients, training)
        c = SimpleNamespace(**coefficients)

        def dropout(x: Any) -> Any:
            if not self.dropout or not training:
                return x
            return keras.random.dropout(x, self.dropout, seed=self.seed_generator)

        return self.method.apply(x, base, c, self.form, dropout)

    def delta(self, kernel: Any) -> Any:
        """Return `K' - K` in float32, in the shape of the kernel."""
        if self.method.depends_on_input:
            refuse_without_delta(self.method)
        self._check_values()
        matrix = ops.cast(self.view.to_matrix(ops.convert_to_tensor(kernel)), "float32")
        v = self.values_of_arrays()
        if self.view.count is None:
            return self.view.from_matrix(self.method.delta(matrix, v, self.form))
        own = {name: vars(v).pop(name) for name in self._array_names}

        def delta(of_one: Any) -> Any:
            K, values = of_one
            return self.method.delta(K, SimpleNamespace(**values, **vars(v)), self.form)

        return self.view.from_matrix(map_stacked(delta, (matrix, own)))

    def numpy_values(self) -> list[SimpleNamespace]:
        """Return all arrays that the method reads, for each matrix, as float64 on the host."""
        values = {k: to_float64(v) for k, v in vars(self.values_of_arrays()).items()}
        own = {name: self.view.split(values.pop(name)) for name in self._array_names}
        return [
            SimpleNamespace(**{name: parts[i] for name, parts in own.items()}, **values)
            for i in range(self.view.count or 1)
        ]

    def float32_kernel(self) -> Any:
        """Return the kernel, without adapters, as a matrix in float32."""
        return self.view.to_matrix(ops.cast(self.kernel(), "float32"))

    def values_of_arrays(self, training: bool | None = False) -> SimpleNamespace:
        """Return all arrays and drawn numbers that the method reads, in float32."""
        values = {name: ops.convert_to_tensor(v) for name, v in self.arrays.items()}
        if self.shared is not None:
            values |= {
                k: self.shared.part(k, a.shape) for k, a in self.declared.items() if a.shared
            }
        if self._draws:
            values |= drawn(self._draws, self.seed_generator if training else None)
        return SimpleNamespace(**{k: cast_float(v, "float32") for k, v in values.items()})

    def _check_values(self) -> None:
        if not self.filled and not only_shapes_matter():
            refuse_empty(self.method)

        if self.shared is not None and self.shared_mark not in (None, self.shared.mark):
            refuse_other_shared_arrays(self.method, self.path)

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        refuse_to_quantize(*args)

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        if self.shared is not None:
            store[SHARED_MARK] = np.frombuffer(self.shared.digest(), "uint8")
        if self.seed_generator is not None:
            store[SEED_STATE] = self.seed_generator.state
        if self.drop_rate is not None:
            store[DROP_RATE] = np.asarray(self.drop_rate)

    def load_own_variables(self, store: Any) -> None:
        if not store.keys() and self.has_values:
            return refit_to_kernel(self)
        there = set(store.keys())
        if there - {SHARED_MARK, SEED_STATE, DROP_RATE} != set(self._array_names):
            refuse_other_arrays(self.method, self.path, store.keys(), self._array_names)
        for name in self._array_names:
            getattr(self, name).assign(store[name])
        if self.shared is not None:
            self.shared_mark = np.asarray(store[SHARED_MARK]).astype("uint8").tobytes()
        if self.seed_generator is not None:
            self.seed_generator.state.assign(store[SEED_STATE])
        self.drop_rate = float(np.asarray(store[DROP_RATE])) if DROP_RATE in there else None
        self.has_values = True
        return None

    def detect_values(self, of_all: bool) -> None:
        super().detect_values(of_all)
        for others in (self.tied, self.shared):
            if others is not None:
                others.detect_values(of_all)

    def uninitialized(self) -> list[keras.Variable]:
        declared = self.declared
        return [getattr(self, k) for k in self._array_names if declared[k].start is None]
