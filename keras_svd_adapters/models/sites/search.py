"""Find the kernels of a model."""

from __future__ import annotations

from collections.abc import Iterator

import keras

from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.layer_kinds import adapted_class_of
from keras_svd_adapters.adapters.layers.read_weight import ReadKernel, kernels_read
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.runtime.layer_attributes import walk


def find_sites(model: keras.layers.Layer) -> list[Site]:
    """Return every kernel of a model, in the order of its weight files."""
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(f"The first argument must be a Keras model or layer. Received: {model!r}")
    return list(_sites(model))


def _sites(model: keras.layers.Layer) -> Iterator[Site]:
    for key, chain in walk(model):
        layer = chain[-1]
        if isinstance(layer, ReadKernel):
            continue
        if adapted_class_of(layer) is not None:
            yield Site(key, _path(chain), layer, chain)
            continue
        for kernel in kernels_read(layer):
            inside = (*chain, kernel)
            yield Site(f"{key}/{kernel.attribute}".lstrip("/"), _path(inside), kernel, inside)


def _path(chain: tuple[keras.layers.Layer, ...]) -> str:
    return "/".join(layer.name for layer in chain[1:]) or chain[0].name


def adapter_names(sites: list[Site]) -> list[str]:
    """Return the names of the adapters on these sites, in their order."""
    return list(dict.fromkeys(name for site in sites for name in adapters_of(site.layer)))


def adapted_sites(model: keras.layers.Layer, name: str | None = None) -> list[Site]:
    """Return the sites that carry an adapter, of this name if one is given."""
    return [
        site
        for site in find_sites(model)
        if adapters_of(site.layer) and (name is None or name in adapters_of(site.layer))
    ]
