"""Find the kernels and the vectors of a model."""

from __future__ import annotations

from collections.abc import Iterator

import keras

from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.layer_kinds import adapted_class_of
from keras_svd_adapters.adapters.layers.attention import AdaptedAttention
from keras_svd_adapters.adapters.layers.read_weight import (
    ReadKernel,
    attached_kernels,
    kernels_read,
    vectors_read,
)
from keras_svd_adapters.adapters.layers.vectors import ATTENTION, KERNELS, TOKENS, VECTORS
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.runtime.layer_attributes import walk


def find_sites(model: keras.layers.Layer, kind: str = KERNELS) -> list[Site]:
    """Return every part of a model of a kind, in the order of its weight files.

    Args:
        model: A Keras model or layer.
        kind: What a method `adapts`: `"kernels"`, `"biases"`, `"norms"`, `"attention"` or
            `"tokens"`.
    """
    check_model(model)
    if kind == KERNELS:
        return list(_sites(model))
    if kind == TOKENS:
        return [site for site in _sites(model) if _looks_up_tokens(site)]
    return list(_attention(model) if kind == ATTENTION else _vectors(model, kind))


def check_model(model: keras.layers.Layer) -> None:
    """Raise an error if the first argument of a verb is no model."""
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(f"The first argument must be a Keras model or layer. Received: {model!r}")


def sites_by_key(model: keras.layers.Layer) -> dict[str, Site]:
    """Return every part of a model that methods adapt, by its key in files."""
    every = [site for kind in (KERNELS, *VECTORS, ATTENTION) for site in find_sites(model, kind)]
    return {site.key: site for site in every}


def _sites(model: keras.layers.Layer) -> Iterator[Site]:
    for key, chain in walk(model):
        yield from _of_layer(key, chain)


def _of_layer(key: str, chain: tuple[keras.layers.Layer, ...]) -> Iterator[Site]:
    """Yield the kernels of the last layer of a chain."""
    layer = chain[-1]
    if isinstance(layer, ReadKernel):
        return
    kind = adapted_class_of(layer)
    if kind is not None and kind.has_kernel:
        yield Site(key, _path(chain), layer, chain)
        return
    for kernel in kernels_read(layer):
        yield _site_read(key, chain, kernel)


def _vectors(model: keras.layers.Layer, kind: str) -> Iterator[Site]:
    for key, chain in walk(model):
        for vector in vectors_read(chain[-1], kind):
            yield _site_read(key, chain, vector)


def _attention(model: keras.layers.Layer) -> Iterator[Site]:
    for key, chain in walk(model):
        kind = adapted_class_of(chain[-1])
        if kind is not None and not kind.has_kernel:
            yield Site(key, _path(chain), chain[-1], chain)


def _looks_up_tokens(site: Site) -> bool:
    """Whether the innermost model around a table looks up its tokens there."""
    model = next((x for x in reversed(site.chain) if isinstance(x, keras.Model)), None)
    if model is None or not site.host.is_lookup:
        return False
    own = getattr(model, "token_embedding", None)
    if own is not None:
        return site.layer is own
    kinds = [(layer, adapted_class_of(layer)) for layer in model.layers]
    tables = [layer for layer, kind in kinds if kind is not None and kind.is_lookup]
    named = [layer for layer in tables if layer.name == "token_embedding"] or tables
    return len(named) == 1 and named[0] is site.layer


def _site_read(key: str, chain: tuple[keras.layers.Layer, ...], weight: ReadKernel) -> Site:
    inside = (*chain, weight)
    return Site(f"{key}/{weight.attribute}".lstrip("/"), _path(inside), weight, inside)


def _path(chain: tuple[keras.layers.Layer, ...]) -> str:
    return "/".join(layer.name for layer in chain[1:]) or chain[0].name


def adapter_names(sites: list[Site]) -> list[str]:
    """Return the names of the adapters on these sites, in their order."""
    return list(dict.fromkeys(name for site in sites for name in adapters_of(site.layer)))


def adapted_sites(model: keras.layers.Layer, name: str | None = None) -> list[Site]:
    """Return the sites that carry an adapter, of this name if one is given: kernels first."""
    check_model(model)
    kernels: list[Site] = []
    vectors: list[Site] = []
    attention: list[Site] = []
    for key, chain in walk(model):
        kernels += _of_layer(key, chain)
        if isinstance(chain[-1], AdaptedAttention):
            attention.append(Site(key, _path(chain), chain[-1], chain))
        attached = (each for each in attached_kernels(chain[-1]) if each.is_vector)
        vectors += (_site_read(key, chain, each) for each in attached)
    return [
        site
        for site in (*kernels, *vectors, *attention)
        if adapters_of(site.layer) and (name is None or name in adapters_of(site.layer))
    ]
