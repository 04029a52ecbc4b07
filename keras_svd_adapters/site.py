"""Sites: the kernels of a model that can be adapted."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import keras
import numpy as np

from keras_svd_adapters.adapter import Adapter, name_scopes
from keras_svd_adapters.convolution import AdaptedConvolution
from keras_svd_adapters.embedding import AdaptedEmbedding
from keras_svd_adapters.host import PREFIX, AdaptedLayer, adapters_of, base_kernel, kind_of
from keras_svd_adapters.keras_internals import walk
from keras_svd_adapters.kernel import KernelView
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.projection import AdaptedProjection
from keras_svd_adapters.shared import SharedArrays

KINDS = (AdaptedProjection, AdaptedConvolution, AdaptedEmbedding)


@dataclass(frozen=True, eq=False)
class Site:
    """One kernel of one layer, seen as a matrix.

    Args:
        key: The traversal path that Keras's weight files use; the same in
            every instance of a model.
        path: The names of the layers from the model to this one.
        layer: The layer itself.
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
        return type(self.layer).__name__

    @cached_property
    def view(self) -> KernelView:
        """The kernel as a matrix."""
        return self.host.view(self.layer)

    @property
    def host(self) -> type[AdaptedLayer]:
        """What the layer becomes while it carries adapters."""
        kind = kind_of(self.layer)
        assert kind is not None
        return kind

    def form(self, method: Method, s: np.ndarray | None = None) -> str:
        """The formulation of a method for this kernel, with singular values `s`."""
        if self.host.looks_up:
            return str(method.lookup_form)
        choose = method.form if self.host.lays_out else method.patch_form
        return choose(self.view.m, self.view.n, s)

    def check(self, method: Method) -> None:
        """Raises `ValueError` where a method cannot adapt this kernel."""
        if self.host.looks_up and method.lookup_form is None:
            raise ValueError(
                "It is an embedding, which LoRA and DoRA adapt; give it one of these by a mapping "
                f"in `targets`, or leave it out. Received: {self.kind}"
            )
        method.check(self.view.m, self.view.n)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the kernel as the layer stores it."""
        return tuple(base_kernel(self.layer).shape)

    @property
    def dtype(self) -> str:
        """Dtype of the kernel as the layer stores it."""
        return str(base_kernel(self.layer).dtype)

    def matrix(self) -> np.ndarray:
        """The kernel as an `(m, n)` float32 array on the host, without adapters."""
        kernel = keras.ops.cast(keras.ops.convert_to_tensor(base_kernel(self.layer)), "float32")
        return self.view.to_matrix(keras.ops.convert_to_numpy(kernel))

    def new_adapter(
        self,
        method: Method,
        form: str,
        name: str,
        values: dict[str, np.ndarray] | None = None,
        shared: SharedArrays | None = None,
    ) -> Adapter:
        """An adapter of this name for the kernel, not attached yet; else as `Adapter` has it."""
        with name_scopes(self.path):
            dtype = self.layer.dtype_policy
            return Adapter(method, self.view, form, values, dtype, shared, PREFIX + name)

    def obstacle(self) -> str | None:
        """Why this layer cannot be adapted, `None` if it can."""
        layer = self.layer
        if getattr(layer, "quantization_mode", None) is not None:
            return f"it is quantized ({layer.quantization_mode}); adapt the float model"
        if getattr(layer, "lora_enabled", False):
            return "Keras's own LoRA is enabled on it; use a model without `enable_lora`"
        if not keras.backend.is_float_dtype(self.dtype):
            return f"its kernel is {self.dtype}; adapt the float model"
        if why := self.host.obstacle(layer):
            return why
        try:
            _ = self.view
        except ValueError as error:
            return str(error)
        return None


def find_sites(model: keras.layers.Layer) -> list[Site]:
    """Every kernel of a model, in the order of its weight files."""
    return [
        Site(key, _path(chain), chain[-1], chain)
        for key, chain in walk(model)
        if kind_of(chain[-1]) is not None
    ]


def _path(chain: tuple[keras.layers.Layer, ...]) -> str:
    return "/".join(layer.name for layer in chain[1:]) or chain[0].name


def adapter_names(sites: list[Site]) -> list[str]:
    """The names of the adapters on these sites, in their order."""
    return list(dict.fromkeys(name for site in sites for name in adapters_of(site.layer)))


def adapted_sites(model: keras.layers.Layer, name: str | None = None) -> list[Site]:
    """The sites that carry an adapter, of this name if one is given."""
    return [
        site
        for site in find_sites(model)
        if adapters_of(site.layer) and (name is None or name in adapters_of(site.layer))
    ]
