"""Layers with an adapter of each method, for people who build their own models."""

from __future__ import annotations

from dataclasses import MISSING, fields
from inspect import Parameter, Signature
from typing import Any

import keras

from keras_svd_adapters import methods
from keras_svd_adapters.adapters.adapted_layer import AdaptedLayer
from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.adapters.attachment import attach
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.frozen_variables import freeze_variable
from keras_svd_adapters.adapters.layer_kinds import base_kernel_value
from keras_svd_adapters.adapters.layers.vectors import BIASES, KERNELS, NORMS
from keras_svd_adapters.adapters.shared_arrays import SharedArrays
from keras_svd_adapters.kernels.svd.service import SVDService
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.assignment import check_methods, with_biases
from keras_svd_adapters.models.attaching import start_adapter
from keras_svd_adapters.models.sites.search import find_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.state.adapted_model import PACKAGE
from keras_svd_adapters.models.state.array_sharing import shared_arrays_for, shared_shapes

NAME = "default"
BASES = {  # of the methods that adapt a kind: base layers, and one of them as code
    KERNELS: ("Dense, EinsumDense or convolution", "Dense(256)"),
    BIASES: ("Dense or other layer with a bias", "Dense(256)"),
    NORMS: ("normalization such as LayerNormalization", "LayerNormalization()"),
}


class AdaptedDense(keras.layers.Layer):
    """Base class of `LoRADense`, `SVFTDense` and so on: owns a layer and adapts it.

    Args:
        base_layer: A built layer with what the method `adapts`: a `Dense`, `EinsumDense` or
            convolution; or a layer with a bias; or a normalization.
        method: A `Method`.
    """

    def __init__(self, base_layer: keras.layers.Layer, method: Method, **kwargs: Any):
        restoring, dtype = kwargs.pop("restoring", None), kwargs.pop("dtype", None)
        sites = _sites_of(base_layer, method)
        if restoring is None and dtype is not None:
            _set_compute_dtype(base_layer, dtype)
        super().__init__(dtype=base_layer.dtype_policy, **kwargs)
        if restoring is None:
            check_methods([(site, method) for site in sites], NAME)
            adapters = [_start(site, method) for site in sites]
        elif restoring == "merged":
            adapters = []
        else:
            adapters = [_empty_adapter(site, method, restoring) for site in sites]
        self.base_layer = base_layer
        self.method = method
        self.supports_masking = base_layer.supports_masking
        for weight in base_layer.weights if adapters else ():
            freeze_variable(weight)
        for site, adapter in zip(sites, adapters):
            attach(site.layer, NAME, adapter)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.base_layer(inputs, training=training)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.base_layer.compute_output_shape(input_shape)

    def merged_kernel(self) -> Any:
        """Return the effective kernel in float32, in the shape of the base layer's kernel."""
        layer = self.base_layer
        if isinstance(layer, AdaptedLayer):
            return layer.merged_kernel()
        return keras.ops.cast(base_kernel_value(layer), "float32")

    def get_config(self) -> dict[str, Any]:
        sites = _sites_of(self.base_layer, self.method)
        adapters = (adapters_of(site.layer).get(NAME) for site in sites)
        form = next((adapter.form for adapter in adapters if adapter is not None), "merged")
        return {
            **super().get_config(),
            "base_layer": keras.saving.serialize_keras_object(self.base_layer),
            **self.method.get_config(),
            "restoring": form,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> AdaptedDense:
        base_layer = keras.saving.deserialize_keras_object(config["base_layer"])
        return cls(**{**config, "base_layer": base_layer})


def _set_compute_dtype(layer: keras.layers.Layer, dtype: Any) -> None:
    """Make a layer compute in another dtype; its variables keep theirs."""
    policy = keras.dtype_policies.get(dtype)
    if policy.variable_dtype != layer.variable_dtype:
        raise ValueError(
            "The variables of `base_layer` keep their dtype: give a `dtype` with the same one, "
            f"such as {layer.variable_dtype!r}, or build the base layer with this dtype. "
            f"Received: dtype={dtype!r}, and a base layer in {layer.variable_dtype}"
        )
    layer.dtype_policy = policy


def _start(site: Site, method: Method) -> Adapter:
    K = site.matrix()
    svd = SVDService().decompose(K, method.truncation) if method.needs_svd else None
    return start_adapter(
        site, method, shared_arrays_for(site.layer, [(site, method)]), [(K, svd)], NAME
    )


def _empty_adapter(site: Site, method: Method, form: str) -> Adapter:
    shapes = shared_shapes([(site, method)])
    dtype = site.layer.compute_dtype
    shared = SharedArrays(method, shapes, dtype=dtype) if shapes else None
    return site.new_adapter(method, form, NAME, shared=shared)


def _sites_of(layer: keras.layers.Layer, method: Method) -> list[Site]:
    """Return the kernel of a layer, or the vectors of the layer that a method adapts."""
    found = find_sites(layer, method.adapts) if isinstance(layer, keras.layers.Layer) else []
    sites = [
        site
        for site in found
        if (site.layer is layer and not site.host.is_lookup)
        or (method.adapts != KERNELS and site.owner is layer)
    ]
    chosen = with_biases(layer, [(site, method) for site in sites]) if sites else []
    sites = [site for site, _ in chosen]
    if not sites:
        built = getattr(layer, "built", None)
        hint = (
            "build it first, as in `base.build((None, 64))`"
            if built is False
            else "pass such a layer"
        )
        raise ValueError(
            f"`base_layer` must be a built {BASES[method.adapts][0]}: {hint}. Received: {layer!r}"
        )
    for site in sites:
        if why := site.exclusion_reason():
            raise ValueError(f"`{site.path}` cannot be adapted: {why}. Received: {layer!r}")
    return sites


def dense_layer(method: type[Method]) -> type[AdaptedDense]:
    """Return the layer of a method: `SVFTDense(base_layer, ...)` with the method's arguments."""
    names = [f.name for f in fields(method)]

    def __init__(self: Any, base_layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> None:
        chosen = {name: kwargs.pop(name) for name in names if name in kwargs}
        AdaptedDense.__init__(self, base_layer, method(*args, **chosen), **kwargs)

    own = list(Signature.from_callable(method).parameters.values())
    base = Parameter("base_layer", Parameter.POSITIONAL_OR_KEYWORD)
    rest = Parameter("kwargs", Parameter.VAR_KEYWORD)
    __init__.__signature__ = Signature([Parameter("self", base.kind), base, *own, rest])  # type: ignore[attr-defined]
    layer = type(
        f"{method.__name__}Dense",
        (AdaptedDense,),
        {"__init__": __init__, "__module__": PACKAGE, "__doc__": _docstring(method)},
    )
    return keras.saving.register_keras_serializable(PACKAGE)(layer)


def _docstring(method: type[Method]) -> str:
    text = (method.__doc__ or "").split("    Example:")[0]
    if "    Args:\n" not in text:
        text += "    Args:\n\n"
    needed = "".join(f", {f.name}=[0]" for f in fields(method) if f.default is MISSING)
    base, example = BASES[method.adapts]
    equal = ", and equals it at step 0"
    reads_data = not needed and bool(method().needs)
    if reads_data:
        equal = (
            ". Its start reads data: `enable` adapts a model with it, and saved models restore it"
        )
    text = text.replace(
        "    Args:\n",
        f"    The layer owns its base layer, freezes it{equal}.\n\n    Args:\n"
        f"        base_layer: A built {base}.\n",
    )
    if reads_data:
        return text
    return text + (
        "    Example:\n\n"
        f"    >>> base = keras.layers.{example}\n"
        "    >>> base.build((None, 256))\n"
        f"    >>> layer = keras_svd_adapters.layers.{method.__name__}Dense(base{needed})\n"
        "    >>> tuple(layer(keras.ops.ones((2, 256))).shape)\n"
        "    (2, 256)\n    "
    )


__all__ = ["AdaptedDense"]
for _name in methods.__all__:
    if _name != "Method" and getattr(methods, _name).adapts in BASES:
        globals()[f"{_name}Dense"] = dense_layer(getattr(methods, _name))
        __all__.append(f"{_name}Dense")
