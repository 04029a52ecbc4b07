"""Selection of sites by patterns, with errors that list the layers of the model."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import Any

import keras

from keras_svd_adapters.adapters.layers.vectors import ATTENTION, KERNELS, TOKENS
from keras_svd_adapters.models.sites.blocks import ATTENTION as ATTENTION_NAMES
from keras_svd_adapters.models.sites.blocks import PRESETS, all_but_head, default_sites, numbered
from keras_svd_adapters.models.sites.layer_tree import format_layer_tree
from keras_svd_adapters.models.sites.patterns import Targets, _matching, matches
from keras_svd_adapters.models.sites.search import find_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.runtime.keras_private.layers import all_layers
from keras_svd_adapters.runtime.warnings import warn


def select_sites(
    model: keras.layers.Layer,
    targets: Targets = None,
    exclude: Targets = None,
    layers: Iterable[int] | None = None,
    last: int | None = None,
    tied: bool = False,
    kind: str = KERNELS,
) -> list[Site]:
    """Return the sites of a model that `targets` names and `exclude` does not.

    Args:
        model: A built Keras model or layer.
        targets: `None` selects every Dense, EinsumDense and expert kernel inside
            the repeated blocks. In a model without such blocks, it selects every
            kernel except the output head; if no other kernel is left, the
            convolutions. Of biases or norms, it selects all except those of the
            output head; for prompts, the table of tokens. Otherwise: an exact
            layer name or path, a glob with `*` or `?`, a compiled regular
            expression searched in the path, a callable on a `Site`, or a list of
            these. A glob or a regular expression never selects an embedding. If
            no layer has such a name, `"attention"` and `"mlp"` select these parts
            of the blocks, and `"all"` every kernel except the output head.
        exclude: The kernels to leave out, as patterns of the same kinds.
        layers: Numbers of the outermost repeated blocks, from 0. Kernels outside
            such blocks are not affected.
        last: Number of these blocks, counted from the end.
        tied: Whether a table that also computes the logits can be adapted.
        kind: As in `find_sites`.

    Returns:
        A list of `Site`.

    Raises:
        ValueError: If a pattern matches nothing, or a layer that cannot be
            adapted.
    """
    sites = find_sites(model, kind)
    tied = tied or kind == TOKENS  # rows beyond a table leave the logits alone
    if not sites:
        raise ValueError(_nothing_to_adapt(model, kind))
    if targets is not None:
        chosen = _matching(model, sites, targets, "targets")
    else:
        chosen = _default_sites(model, sites, kind)
    if exclude is not None:
        left_out = _matching(model, sites, exclude, "exclude")
        chosen = [site for site in chosen if site not in left_out]
    if layers is not None or last is not None:
        chosen = _in_blocks(sites, chosen, layers, last)
    if not chosen:
        raise ValueError(
            "No layer is left to adapt: name one in `targets`, or take a pattern out of "
            f"`exclude`. The model has\n{format_layer_tree(sites)}\n"
            f"Received: targets={targets!r}, exclude={exclude!r}, layers={layers!r}, last={last!r}"
        )
    blocked = [(site, why) for site in chosen if (why := site.exclusion_reason(tied))]
    if blocked and targets is not None and not _all_words(targets, sites):
        site, why = blocked[0]
        raise ValueError(
            f"`{site.path}` cannot be adapted: {why}. Leave it out with `exclude`. "
            f"Received: targets={targets!r}"
        )
    chosen = [site for site in chosen if not site.exclusion_reason(tied)]
    if not chosen:
        site, why = blocked[0]
        raise ValueError(
            f"No kernel can be adapted: `{site.path}`: {why}. Received: targets={targets!r}"
        )
    if blocked:
        _warn_skipped(blocked, targets)
    return chosen


def _default_sites(model: keras.layers.Layer, sites: list[Site], kind: str) -> list[Site]:
    """Return the sites of a kind that are selected if no target is named."""
    if kind == KERNELS:
        return default_sites(model, sites)
    return sites if kind in (ATTENTION, TOKENS) else _outside_head(model, sites)


def _outside_head(model: keras.layers.Layer, vectors: list[Site]) -> list[Site]:
    """Return the vectors of all layers except those with the kernel of the output head."""
    kernels = find_sites(model)
    kept = {site.key for site in all_but_head(model, kernels)}
    heads = {id(s.owner) for s in kernels if s.key not in kept and not s.host.is_lookup}
    return [site for site in vectors if id(site.owner) not in heads]


def _all_words(targets: Targets, sites: list[Site]) -> bool:
    """Whether all targets are words such as `"mlp"` that name no layer."""
    listed = [targets] if isinstance(targets, str) else targets
    if not isinstance(listed, (list, tuple)):
        return False
    return all(
        isinstance(each, str) and each in PRESETS and not any(matches(s, each) for s in sites)
        for each in listed
    )


def _warn_skipped(blocked: list[tuple[Site, str]], targets: Targets) -> None:
    shown = "; ".join(f"`{site.path}`: {why}" for site, why in blocked[:3])
    more = "; ..." * (len(blocked) > 3)
    warn(
        f"{len(blocked)} of the layers selected by default cannot be adapted: "
        f"{shown}{more}. Name them in `exclude` to silence this warning. "
        f"Received: targets={targets!r}"
    )


def _nothing_to_adapt(model: keras.layers.Layer, kind: str) -> str:
    if not model.built:
        return (
            "The model is not built, so it has no kernels yet: call it on a batch, or "
            f"`model.build(input_shape)`, first. Received: {model!r}"
        )
    if kind == ATTENTION:
        others = {type(layer).__name__ for layer in all_layers(model)}
        others = {name for name in others if ATTENTION_NAMES.search(name)}
        return (
            "The model has no attention layer that can be adapted: it has "
            f"{', '.join(sorted(others)) or 'none'}. Known are `MultiHeadAttention` "
            "and `GroupQueryAttention` of Keras, and those of KerasHub's Llama, Mistral, Qwen, "
            "Qwen3, Gemma and Gemma3, and of the models that use `CachedMultiHeadAttention`, such "
            "as GPT2. Use a method for kernels, such as `LoRA(rank=8)`, on this one. "
            f"Received: {model!r}"
        )
    if kind == TOKENS:
        return (
            "The model has no table in which it looks up tokens, so no prompt can stand before its "
            "inputs. Use a method for kernels, such as `LoRA(rank=8)`, or a model that reads "
            f"text, such as Gemma or BERT. Received: {model!r}"
        )
    if kind != KERNELS:
        return (
            f"The model has no {kind} that can be adapted; Gemma and Llama, for example, have no "
            f"biases. Use a method for kernels, such as `LoRA(rank=8)`. Received: {model!r}"
        )
    return (
        "The model has no kernel that can be adapted: no built Dense, EinsumDense, convolution, "
        "recurrent cell or layer of experts. For weights that your own layer reads, "
        f'`register_kernels(MyLayer, w="mn")`. Received: {model!r}'
    )


def _in_blocks(
    sites: list[Site], chosen: list[Site], layers: Iterable[int] | None, last: int | None
) -> list[Site]:
    """Return the chosen sites inside the given repeated blocks, or outside all blocks."""
    numbers = numbered(sites)
    received = f"Received: layers={layers!r}, last={last!r}"
    if layers is not None and last is not None:
        raise ValueError(f"Give `layers` or `last`, not both. {received}")
    most = max((count for _, count in numbers.values()), default=0)
    if not most:
        raise ValueError(f"The model has no repeated blocks to choose from. {received}")
    if last is not None:
        if not _is_number(last) or not 0 < last <= most:
            raise ValueError(f"`last` is a number of blocks, {most} at most. {received}")
        return [s for s in chosen if s.key not in numbers or _from_end(numbers[s.key]) <= last]
    wanted = list(layers) if isinstance(layers, Iterable) else []
    if not wanted or not all(_is_number(each) and 0 <= each < most for each in wanted):
        raise ValueError(
            f"`layers` holds numbers of the {most} repeated blocks, from 0, such as "
            f"`range({most // 2}, {most})`. {received}"
        )
    return [s for s in chosen if s.key not in numbers or numbers[s.key][0] in wanted]


def _is_number(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _from_end(place: tuple[int, int]) -> int:
    number, count = place
    return count - number
