"""Assignment of a method to each selected kernel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import keras

from keras_svd_adapters.adapters.carried import PREFIX
from keras_svd_adapters.adapters.layer_kinds import base_kernel_variable
from keras_svd_adapters.adapters.layers.vectors import BIASES
from keras_svd_adapters.kernels.placement import check_layout
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.methods.statistics import Statistics
from keras_svd_adapters.models.prompts.reader import check_reader
from keras_svd_adapters.models.sites.patterns import Targets, sites_matching
from keras_svd_adapters.models.sites.search import check_model, find_sites, sites_by_key
from keras_svd_adapters.models.sites.selection import select_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.runtime.warnings import warn

Chosen = list[tuple[Site, Method]]


def check_name(name: str) -> None:
    """Raise an error if an adapter cannot have this name."""
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(
            "The name of an adapter is a word of letters, digits and underscores, such as "
            f"'pirate'. Received: name={name!r}"
        )


def choose_methods(
    model: keras.layers.Layer,
    method: Method | None,
    targets: Targets,
    exclude: Targets = None,
    layers: Iterable[int] | None = None,
    last: int | None = None,
    tied: bool = False,
) -> Chosen:
    """Return the sites to adapt, each with the method of the first pattern that selects it."""
    check_model(model)
    which = (exclude, layers, last, tied)
    if not isinstance(targets, Mapping) or not targets:
        method = _require_method(method)
        sites = select_sites(model, targets, *which, method.adapts)
        return with_biases(model, [(site, method) for site in sites])
    if method is not None and all(targets.values()):
        raise ValueError(
            "Each of these targets has its own method, so `method` has no effect: leave it out, "
            f"or give a target the value `None` to use it there. Received: method={method!r}, "
            f"{targets!r}"
        )
    rules = {pattern: _require_method(rule or method) for pattern, rule in targets.items()}
    chosen: dict[str, tuple[Site, Method]] = {}  # the shift of a normalization is of two kinds
    for kind in dict.fromkeys(rule.adapts for rule in rules.values()):
        patterns = [pattern for pattern, rule in rules.items() if rule.adapts == kind]
        selected = {site.key for site in select_sites(model, patterns, *which, kind)}
        everything = find_sites(model, kind)
        for pattern in patterns:
            for site in sites_matching(pattern, model, everything):
                if site.key in selected:
                    chosen.setdefault(site.key, (site, rules[pattern]))
    places = {key: place for place, key in enumerate(sites_by_key(model))}
    ordered = [chosen[key] for key in sorted(chosen, key=places.__getitem__)]
    return with_biases(model, ordered)


def allocate(chosen: Chosen, found: Mapping[str, list[Statistics]] | None) -> Chosen:
    """Return the sites with the methods that they have after data was seen; some may have none.

    Args:
        chosen: The sites, each with its method.
        found: The statistics of each kernel that needs some, by the key of its site.
    """
    if found is None:
        return chosen
    after: dict[str, Method | None] = {}
    for method in dict.fromkeys(method for site, method in chosen if site.key in found):
        sites = [site for site, own in chosen if own == method and site.key in found]
        shapes = [(site.view.m, site.view.n) for site in sites]
        methods = method.allocated(shapes, [found[site.key] for site in sites])
        after |= zip((site.key for site in sites), methods, strict=True)
    every = [(site, after.get(site.key, method)) for site, method in chosen]
    return [(site, method) for site, method in every if method is not None]


def with_biases(model: keras.layers.Layer, chosen: Chosen) -> Chosen:
    """Return the sites, and the biases of their layers that the methods also adapt."""
    methods = {
        id(site.owner): method
        for site, method in chosen
        if method.adapts_bias(site.view.m, site.view.n)
    }
    biases = find_sites(model, BIASES) if methods else []
    keys = {site.key for site, _ in chosen}
    return chosen + [
        (bias, methods[id(bias.owner)])
        for bias in biases
        if id(bias.owner) in methods and bias.key not in keys
    ]


def _require_method(method: Any) -> Method:
    if not isinstance(method, Method):
        raise ValueError(
            "`method` must be an instance such as `SVFT(pattern='banded', d=2)` or "
            f"`LoRA(rank=8)`, not a class. Received: method={method!r}"
        )
    return method


def check_methods(chosen: Chosen, name: str) -> None:
    """Raise an error if a kernel does not suit its method, or has an adapter of this name."""
    check_shapes(chosen)
    for site, _ in chosen:
        if hasattr(site.layer, PREFIX + name):
            raise ValueError(
                f"`{site.path}` has an adapter of this name. To start over, "
                f"`delete_adapter(model, {name!r})` first; to keep both, give the new one another "
                "`name=`. "
                f"Received: name={name!r}"
            )


def check_shapes(chosen: Chosen) -> None:
    """Raise an error if a kernel does not suit its method."""
    for site, method in chosen:
        check_layout(base_kernel_variable(site.layer))
        try:
            site.check(method)
            check_reader(site, method)
        except ValueError as error:
            raise ValueError(f"{method} does not suit `{site.path}`. {error}") from None
    read = [(site, method) for site, method in chosen if not site.host.is_called]
    for site, method in read:
        if method.depends_on_input:
            raise ValueError(
                f"{method} needs a layer that is called with an input, since "
                f"{method.depends_on_input}; this layer reads its kernel. Leave it out with "
                f"`exclude`, or give it another method in `targets`. Received: `{site.path}`"
            )
    dry = [site.path for site, method in read if getattr(method, "dropout", 0)]
    if dry:
        warn(
            f"The layers of {len(dry)} kernels read them and give dropout no input: these kernels "
            "train without dropout. Give them a method with `dropout=0` to silence this warning. "
            f"Received: {_first_of(dry)}"
        )
    fixed = [s.path for s, m in read if m.draws(s.view.m, s.view.n, m.forms[0])]
    if fixed:
        warn(
            f"The layers of {len(fixed)} kernels read them instead of being called: these kernels "
            "train without the random numbers of their method, as in inference. Leave them out "
            f"with `exclude`, or give them another method. Received: {_first_of(fixed)}"
        )


def _first_of(paths: list[str]) -> str:
    return f"{', '.join(paths[:3])}{', ...' * (len(paths) > 3)}"
