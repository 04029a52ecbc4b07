"""Patterns that select kernels by their paths."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import keras

from keras_svd_adapters.models.sites.blocks import PRESETS, preset_sites
from keras_svd_adapters.models.sites.layer_tree import format_layer_tree
from keras_svd_adapters.models.sites.site import Site

Pattern = str | re.Pattern[str] | Callable[[Site], bool]
Targets = Pattern | Iterable[Pattern] | Mapping[Any, Any] | None


def _matching(
    model: keras.layers.Layer, sites: list[Site], patterns: Targets, argument: str
) -> list[Site]:
    listed = (
        [patterns] if isinstance(patterns, (str, re.Pattern)) or callable(patterns) else patterns
    )
    found: set[str] = set()
    for pattern in listed:  # type: ignore[union-attr]
        hits = {site.key for site in sites_matching(pattern, model, sites)}
        if not hits:
            raise ValueError(_no_match(sites, pattern, argument))
        found |= hits
    return [site for site in sites if site.key in found]


def sites_matching(pattern: Pattern, model: keras.layers.Layer, sites: list[Site]) -> list[Site]:
    """Return the sites of a model that one pattern selects."""
    found = [site for site in sites if matches(site, pattern)]
    if not found and isinstance(pattern, str) and pattern in PRESETS:
        return preset_sites(pattern, model, sites)
    return found


def matches(site: Site, pattern: Pattern) -> bool:
    """Whether a pattern selects a site; only a name, a path or a callable selects an embedding."""
    if isinstance(pattern, re.Pattern):
        return not site.host.is_lookup and pattern.search(site.path) is not None
    is_layer = isinstance(pattern, (keras.layers.Layer, type))
    if callable(pattern) and not is_layer:
        return bool(pattern(site))
    if is_layer or not isinstance(pattern, str):
        raise ValueError(
            "A target is a layer's name (`layer.name`), a path, a glob, a compiled regular "
            f"expression or a callable on a site. Received: {pattern!r}"
        )
    names = {name for path in _paths(site) for name in _suffixes(path)}
    if "*" in pattern or "?" in pattern:
        return not site.host.is_lookup and any(fnmatchcase(name, pattern) for name in names)
    return pattern in names or pattern == site.key


def names_of(model: keras.layers.Layer, sites: Iterable[Site], every: list[Site]) -> list[str]:
    """Return a pattern for each site that selects it alone: its path, or else its key.

    Args:
        model: The model.
        sites: Some of its sites.
        every: All of its sites of their kind.
    """

    def is_alone(site: Site) -> bool:
        return [each.key for each in sites_matching(site.path, model, every)] == [site.key]

    return [site.path if is_alone(site) else site.key for site in sites]


def _paths(site: Site) -> list[str]:
    """Return the paths of a kernel and of the layers that read it, such as an LSTM and its cell."""
    above = len(site.chain) - 1 - len(site.around)
    return [site.path.rsplit("/", count)[0] for count in range(above + 1)]


def _suffixes(path: str) -> Iterable[str]:
    parts = path.split("/")
    return ("/".join(parts[i:]) for i in range(len(parts)))


def _no_match(sites: list[Site], pattern: Any, argument: str) -> str:
    names = sorted({site.name for site in sites} | {site.path for site in sites} | set(PRESETS))
    near = difflib.get_close_matches(str(pattern), names, n=3, cutoff=0.4)
    tables = any(site.host.is_lookup for site in sites)
    rule = "Name an embedding by its exact name. " if tables else ""
    hint = f"Did you mean {' or '.join(repr(name) for name in near)}? " if near else ""
    return (
        f"`{argument}` matches no layer that can be adapted. {hint}{rule}The model has\n"
        f"{format_layer_tree(sites)}\nReceived: {argument}={pattern!r}"
    )
