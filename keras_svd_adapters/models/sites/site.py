"""Sites: the kernels of a model that can be adapted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import takewhile
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.adapters.adapted_layer import AdaptedLayer
from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.adapters.carried import PREFIX
from keras_svd_adapters.adapters.declared_arrays import declared_arrays
from keras_svd_adapters.adapters.layer_kinds import (
    adapted_class_of,
    base_kernel_value,
    base_kernel_variable,
)
from keras_svd_adapters.adapters.layers.convolution import AdaptedConvolution
from keras_svd_adapters.adapters.layers.dense import AdaptedProjection
from keras_svd_adapters.adapters.layers.embedding import AdaptedEmbedding
from keras_svd_adapters.adapters.layers.read_weight import AdaptedReadKernel, ReadKernel, place
from keras_svd_adapters.adapters.layers.registry import slides
from keras_svd_adapters.adapters.shared_arrays import SharedArrays
from keras_svd_adapters.kernels.matrix_view import KernelView
from keras_svd_adapters.kernels.placement import array_layout, mirrored_scope
from keras_svd_adapters.kernels.quantized import (
    float_policy,
    holds_integers,
    mode_of,
    obstacle_of_quantization,
)
from keras_svd_adapters.methods.contract import Array
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.runtime.host_values import to_float_array
from keras_svd_adapters.runtime.name_scopes import name_scopes

RECURRENT = (keras.layers.RNN, keras.layers.Bidirectional)
KINDS = (AdaptedProjection, AdaptedConvolution, AdaptedEmbedding, AdaptedReadKernel)


@dataclass(frozen=True, eq=False)
class Site:
    """One kernel of one layer, seen as a matrix, or as a stack of matrices for experts.

    Args:
        key: The traversal path that Keras's weight files use, the same in
            every instance of a model.
        path: The names of the layers from the model to this one.
        layer: The layer itself. For a weight that its layer reads, a
            `ReadKernel` that represents the weight.
        chain: The layers from the model to this one.
    """

    key: str
    path: str
    layer: keras.layers.Layer = field(repr=False)
    chain: tuple[keras.layers.Layer, ...] = field(repr=False)

    @property
    def name(self) -> str:
        """Name of the layer."""
        return self.layer.name

    @property
    def kind(self) -> str:
        """Name of the class of the layer."""
        return type(self.owner).__name__

    @cached_property
    def view(self) -> KernelView:
        """The kernel as a matrix."""
        return self.host.view(self.layer)

    @property
    def host(self) -> type[AdaptedLayer]:
        """The `AdaptedLayer` subclass of the layer while it carries adapters."""
        kind = adapted_class_of(self.layer)
        assert kind is not None
        return kind

    @property
    def around(self) -> tuple[keras.layers.Layer, ...]:
        """The layers around the layer with the kernel; a recurrent layer counts as a whole."""
        outer = self.chain[: self.chain.index(self.owner)]
        return tuple(takewhile(lambda layer: not isinstance(layer, RECURRENT), outer))

    @property
    def owner(self) -> keras.layers.Layer:
        """The layer that holds the kernel as its weight."""
        return self.layer.holder() if isinstance(self.layer, ReadKernel) else self.layer

    @property
    def is_default_target(self) -> bool:
        """Whether the kernel is selected if no target is named; kernels of convolutions are not."""
        return self.host.is_default_target and not slides(self.owner)

    def form(self, method: Method, spectra: Sequence[np.ndarray] = ()) -> str:
        """Return the formulation of a method for this kernel, given these singular values."""
        if self.host.is_lookup:
            return str(method.lookup_form)
        s = min(spectra, key=lambda s: float(s[-1]) / (float(s[0]) or 1.0), default=None)
        if holds_integers(self.layer):
            return method.beside_form
        choose = method.form if self.host.has_row_inputs else method.patch_form
        return choose(self.view.m, self.view.n, s)

    def check(self, method: Method) -> None:
        """Raise `ValueError` if a method cannot adapt this kernel."""
        if self.host.is_lookup and method.lookup_form is None:
            raise ValueError(
                "Only LoRA, DoRA and TokenRows adapt an embedding: give it one of these with a "
                f"mapping in `targets`, or leave it out. Received: {self.kind}"
            )
        if holds_integers(self.layer) and getattr(method, "formulation", "auto") == "factored":
            raise ValueError(
                "The factors would replace the quantized kernel and use more memory than it: use "
                f"`formulation='auto'`. Received: {method}"
            )
        method.check(self.view.m, self.view.n)

    def arrays(self, method: Method, form: str | None = None) -> dict[str, Array]:
        """Return the arrays of an adapter of this kernel, from `Method.arrays` for one matrix."""
        return declared_arrays(method, self.view, form or self.form(method))

    @property
    def is_vector(self) -> bool:
        """Whether this is a bias or a vector of a normalization, as a kernel of one row."""
        return isinstance(self.layer, ReadKernel) and self.layer.is_vector

    def tie_key(self, method: Method) -> tuple[Any, ...]:
        """Return what the sites have in common that read the same tied arrays of a method."""
        return (method, id(self.owner)) if method.tied_by_layer else (method,)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the kernel as the layer stores it."""
        return self.view.shape

    @property
    def dtype(self) -> str:
        """Dtype of the kernel as the layer stores it, such as `"float32"` or `"nf4"`."""
        integers = mode_of(self.layer) if holds_integers(self.layer) else None
        return integers or str(base_kernel_variable(self.layer).dtype)

    def matrix(self) -> np.ndarray:
        """Return the kernel without adapters as float32 on the host, `(m, n)` or a stack."""
        return self.view.to_matrix(_float32(base_kernel_value(self.layer)))

    def matrices(self) -> list[tuple[str, Callable[[], np.ndarray]]]:
        """Return the path of each matrix of the kernel, and a function that copies it to host."""
        if self.view.count is None:
            return [(self.path, self.matrix)]
        return [(self.path + x, partial(self._slice, i)) for i, x in enumerate(self.places)]

    @property
    def places(self) -> list[str]:
        """What follows the path of each matrix of the kernel, such as `[0]` in a stack."""
        return [""] if self.view.count is None else [f"[{i}]" for i in range(self.view.count)]

    def _slice(self, index: int) -> np.ndarray:
        one = self.view.slice(base_kernel_value(self.layer), index)
        return self.view.slice_to_matrix(_float32(one))

    def new_adapter(
        self,
        method: Method,
        form: str,
        name: str,
        values: dict[str, np.ndarray] | None = None,
        shared: SharedArrays | None = None,
    ) -> Adapter:
        """Create an unattached adapter of this name for the kernel, with arguments of `Adapter`."""
        with name_scopes(self._scope), mirrored_scope(base_kernel_variable(self.layer)):
            dtype = float_policy(self.layer)
            layout = partial(array_layout, base_kernel_variable(self.layer), self.view)
            return Adapter(method, self.view, form, values, dtype, shared, PREFIX + name, layout)

    def paths(self, method: Method, name: str) -> dict[str, tuple[int, ...] | None]:
        """Return the paths and shapes of the variables that an adapter of this name may have.

        A shape is `None` if it depends on other kernels or on the spectrum.
        """
        found: dict[str, tuple[int, ...] | None] = {}
        sure = self.arrays(method)
        for form in method.forms:
            for array, told in self.arrays(method, form).items():
                if told.shared:
                    found[f"shared_{method.name}/{array}"] = None
                else:
                    shape = told.shape if array in sure else None
                    found[f"{self._scope}/{PREFIX}{name}/{array}"] = shape
        return found

    @property
    def _scope(self) -> str:
        """The path of the variables of adapters, which no weight may have."""
        if not isinstance(self.layer, ReadKernel):
            return self.path
        return self.path.removesuffix(self.name) + place(self.layer.attribute)

    def exclusion_reason(self, tied: bool = False) -> str | None:
        """Return why this layer cannot be adapted, or not unless `tied`; `None` if it can."""
        layer = self.layer
        if why := obstacle_of_quantization(self.owner):
            return why
        if getattr(layer, "lora_enabled", False):
            return "Keras's own LoRA is enabled on it; use a model without `enable_lora`"
        if not (holds_integers(self.layer) or keras.backend.is_float_dtype(self.dtype)):
            return f"its kernel is {self.dtype}; adapt the float model"
        if why := self.host.exclusion_reason(layer) or (
            None if tied else self.host.tied_reason(layer)
        ):
            return why
        try:
            _ = self.view
        except ValueError as error:
            return str(error)
        return None


def _float32(kernel: Any) -> np.ndarray:
    return np.asarray(to_float_array(kernel), dtype="float32")
