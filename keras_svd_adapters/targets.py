"""From patterns to sites, with errors that say what there is."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import keras

from keras_svd_adapters.keras_internals import output_layers
from keras_svd_adapters.site import Site, find_sites
from keras_svd_adapters.tree import tree
from keras_svd_adapters.warning import warn

Pattern = str | re.Pattern[str] | Callable[[Site], bool]
Targets = Pattern | Iterable[Pattern] | Mapping[Any, Any] | None


def choose(
    model: keras.layers.Layer, targets: Targets = None, exclude: Targets = None
) -> list[Site]:
    """The sites of a model that `targets` names and `exclude` does not.

    Args:
        model: A built Keras model or layer.
        targets: `None` for every Dense and EinsumDense inside the repeated
            blocks (in a model without such, every one but the output head); or
            an exact layer name or path, a glob with `*` or `?`, a compiled
            regular expression searched in the path, a callable on a `Site`, or
            a list of these. A glob or a regular expression never means an
            embedding.
        exclude: Likewise, what to leave out.

    Returns:
        A list of `Site`.

    Raises:
        ValueError: If a pattern matches nothing, or a layer that cannot be
            adapted.
    """
    sites = find_sites(model)
    if not sites:
        raise ValueError(_nothing_to_adapt(model))
    chosen = (
        default_sites(model, sites) if targets is None else _matching(sites, targets, "targets")
    )
    if exclude is not None:
        left_out = {site.key for site in _matching(sites, exclude, "exclude")}
        chosen = [site for site in chosen if site.key not in left_out]
    if not chosen:
        raise ValueError(
            "No layer is left to adapt: name one in `targets`, or take a pattern out of "
            f"`exclude`. The model has\n{tree(sites)}\n"
            f"Received: targets={targets!r}, exclude={exclude!r}"
        )
    blocked = [(site, why) for site in chosen if (why := site.obstacle())]
    if blocked and targets is not None:
        site, why = blocked[0]
        raise ValueError(f"`{site.path}` cannot be adapted: {why}. Received: targets={targets!r}")
    chosen = [site for site in chosen if not site.obstacle()]
    if not chosen:
        site, why = blocked[0]
        raise ValueError(f"No kernel can be adapted: `{site.path}`: {why}. Received: targets=None")
    if blocked:
        _tell_of_blocked(blocked)
    return chosen


def _tell_of_blocked(blocked: list[tuple[Site, str]]) -> None:
    shown = "; ".join(f"`{site.path}`: {why}" for site, why in blocked[:3])
    more = "; ..." * (len(blocked) > 3)
    warn(
        f"{len(blocked)} of the layers that are meant without `targets` cannot be adapted: "
        f"{shown}{more}. To go without them and without this warning, name them in `exclude`. "
        "Received: targets=None"
    )


def _nothing_to_adapt(model: keras.layers.Layer) -> str:
    if not model.built:
        return (
            "The model is not built, so it has no kernels yet: call it on a batch, or "
            f"`model.build(input_shape)`, first. Received: {model!r}"
        )
    return (
        "The model has no built Dense or EinsumDense layer, which are the kernels that can be "
        f"adapted. Received: {model!r}"
    )


def _matching(sites: list[Site], patterns: Targets, argument: str) -> list[Site]:
    listed = (
        [patterns] if isinstance(patterns, (str, re.Pattern)) or callable(patterns) else patterns
    )
    found: set[str] = set()
    for pattern in listed:  # type: ignore[union-attr]
        hits = {site.key for site in sites if matches(site, pattern)}
        if not hits:
            raise ValueError(_no_match(sites, pattern, argument))
        found |= hits
    return [site for site in sites if site.key in found]


def matches(site: Site, pattern: Pattern) -> bool:
    """Whether a pattern means a site; an embedding is meant by name, path or callable only."""
    if isinstance(pattern, re.Pattern):
        return not site.host.looks_up and pattern.search(site.path) is not None
    if callable(pattern):
        return bool(pattern(site))
    if not isinstance(pattern, str):
        raise ValueError(
            "A target is a layer name, a path, a glob, a compiled regular expression or a "
            f"callable on a site. Received: {pattern!r}"
        )
    names = set(_suffixes(site.path))
    if "*" in pattern or "?" in pattern:
        return not site.host.looks_up and any(fnmatchcase(name, pattern) for name in names)
    return pattern in names or pattern == site.key


def _suffixes(path: str) -> Iterable[str]:
    parts = path.split("/")
    return ("/".join(parts[i:]) for i in range(len(parts)))


def _no_match(sites: list[Site], pattern: Any, argument: str) -> str:
    names = sorted({site.name for site in sites} | {site.path for site in sites})
    near = difflib.get_close_matches(str(pattern), names, n=3, cutoff=0.4)
    tables = any(site.host.looks_up for site in sites)
    rule = "An embedding is named by its exact name. " if tables else ""
    hint = f"Did you mean {' or '.join(repr(name) for name in near)}? " if near else ""
    return (
        f"`{argument}` matches no layer that can be adapted. {hint}{rule}The model has\n"
        f"{tree(sites)}\nReceived: {argument}={pattern!r}"
    )


def default_sites(model: keras.layers.Layer, sites: list[Site]) -> list[Site]:
    """Every site inside repeated blocks, else every site but the output head."""
    sites = [site for site in sites if not site.host.looks_up]
    if sites and sites[0].layer is model:
        return sites
    blocks = {id(block) for block in _blocks(sites)}
    inside = [site for site in sites if any(id(layer) in blocks for layer in site.chain)]
    if inside or not sites:
        return inside
    head = _head(model, sites)
    return [site for site in sites if site is not head]


def _blocks(sites: list[Site]) -> list[keras.layers.Layer]:
    """Layers that hold kernels and have a sibling of the same class that does, too."""
    parents = {
        id(child): (id(parent), child)
        for site in sites
        for parent, child in zip(site.chain[:-2], site.chain[1:-1], strict=False)
    }
    families = Counter((parent, type(child)) for parent, child in parents.values())
    return [child for parent, child in parents.values() if families[parent, type(child)] > 1]


def _head(model: keras.layers.Layer, sites: list[Site]) -> Site:
    """The kernel whose layer makes the output; the last one where that is not known."""
    makers = {id(layer) for layer in output_layers(model)}
    return next((site for site in sites if id(site.layer) in makers), sites[-1])
