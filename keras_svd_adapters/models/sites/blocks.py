"""The structure of a model: its repeated blocks, their attention layers, its output head."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import keras

from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.runtime.keras_private.layers import producer

PRESETS = ("attention", "mlp", "all")
ATTENTION = re.compile("attention|attn|mha|qkv", re.IGNORECASE)


def default_sites(model: keras.layers.Layer, sites: list[Site]) -> list[Site]:
    """Return the kernels inside repeated blocks, or else all except the output head.

    Convolutions are selected only if no other kernel is left.
    """
    linear = [site for site in sites if site.is_default_target]
    for some in (linear, sites):
        found = _inside(some) or all_but_head(model, some)
        if found:
            return found
    return []


def preset_sites(preset: str, model: keras.layers.Layer, sites: list[Site]) -> list[Site]:
    """Return the kernels that a preset selects, whatever the model calls them."""
    if preset == "all":
        return all_but_head(model, sites)
    attention = attention_keys(sites)
    if preset == "attention":  # which is no head, even if nothing repeats
        found = [site for site in _inside(sites) or sites if site.key in attention]
        return [site for site in found if site.is_default_target] or found
    return [site for site in default_sites(model, sites) if site.key not in attention]


def attention_keys(sites: Iterable[Site]) -> set[str]:
    """Return the keys of the kernels that belong to an attention layer.

    The class or the name of such a layer, or of the kernel, contains a word for attention. The name
    of a block that holds an attention layer, such as `ResidualAttentionBlock`, does not count for
    the other kernels of the block.
    """
    sites = list(sites)
    blocks = {
        id(layer)
        for site in sites
        for place, layer in enumerate(site.chain)
        if any(map(_called_attention, site.chain[place + 1 : -1]))
    } & set(_families(sites))
    found = set()
    for site in sites:
        chain = site.chain[isinstance(site.chain[0], keras.Model) :]
        if any(_called_attention(layer) and id(layer) not in blocks for layer in chain):
            found.add(site.key)
    return found


def _called_attention(layer: keras.layers.Layer) -> bool:
    return ATTENTION.search(f"{type(layer).__name__} {layer.name}") is not None


def all_but_head(model: keras.layers.Layer, sites: list[Site]) -> list[Site]:
    """Return every kernel except that of the output head; for a single layer, its own kernel."""
    sites = [site for site in sites if not site.host.is_lookup]
    if not sites or sites[0].owner is model:
        return sites
    makers = {id(layer) for layer in output_layers(model)}
    if not any(id(_whole(site)) in makers for site in sites) and not _inside(sites):
        makers = {id(_whole(sites[-1]))}
    return [site for site in sites if id(_whole(site)) not in makers]


def output_layers(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Return the layers that compute a functional model's outputs; none for other models."""
    outputs = keras.tree.flatten(getattr(model, "outputs", None) or [])
    return [layer for output in outputs for layer in _makers(output)]


def _makers(output: Any) -> list[Any]:
    """Return the last layers with weights before an output, also inside nested models."""
    made_by, before = producer(output)
    if isinstance(made_by, keras.Model) and getattr(made_by, "outputs", None):
        return output_layers(made_by)
    if getattr(made_by, "weights", None) or before is None:
        return [made_by]
    return [layer for tensor in before[:1] for layer in _makers(tensor)]


def numbered(sites: Iterable[Site]) -> dict[str, tuple[int, int]]:
    """Number the kernels inside repeated blocks by their outermost block, and count the blocks.

    Args:
        sites: All kernels of a model.

    Returns:
        A dict from the key of a site to `(number, count)`.
    """
    sites = sorted(sites, key=lambda site: _natural(site.key))
    families = _families(sites)
    found = {}
    for site in sites:
        outermost = next((layer for layer in site.chain if id(layer) in families), None)
        if outermost is not None:
            family = families[id(outermost)]
            found[site.key] = family.index(id(outermost)), len(family)
    return found


def _inside(sites: list[Site]) -> list[Site]:
    """Return the kernels inside repeated blocks."""
    families = _families(sites)
    return [
        site
        for site in sites
        if not site.host.is_lookup and any(id(layer) in families for layer in site.chain)
    ]


def _families(sites: Iterable[Site]) -> dict[int, list[int]]:
    """Map each layer with kernels to the siblings of its class with kernels, if there are any."""
    parents = {
        id(child): (id(parent), type(child))
        for site in sites
        if not site.host.is_lookup
        for parent, child in pairwise(site.around)
    }
    sizes = Counter(parents.values())
    families: dict[tuple[int, type], list[int]] = {}
    for child, family in parents.items():
        if sizes[family] > 1:
            families.setdefault(family, []).append(child)
    return {child: family for family in families.values() for child in family}


def _whole(site: Site) -> keras.layers.Layer:
    """Return the layer with the kernel, or the recurrent layer around its cell."""
    return site.chain[len(site.around)]


def _natural(key: str) -> list[str | int]:
    """Return a sort key that puts block 10 after block 9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", key)]
