"""Similarity of the adapters of a model, by their kernel updates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.merging.kernel_updates import kernel_updates
from keras_svd_adapters.merging.similarity_report import (
    KernelSimilarity,
    PairSimilarity,
    Similarity,
)
from keras_svd_adapters.models.named_adapters import (
    attached_names,
    require_adapter,
    require_values,
)
from keras_svd_adapters.models.sites.site import Site

Pair = tuple[str, str]


def similarity(model: keras.layers.Layer, names: Sequence[str] | None = None) -> Similarity:
    """Compare adapters by the angles between their kernel updates.

    Adapters of all methods can be compared. Near a cosine of 0, two adapters
    work on different things, and their sum (`combine`) does the work of both.
    Near 1 the adapters are alike; near -1 their updates cancel in a sum. Other
    weights that trained with an adapter (`train=`) are not compared.

    Args:
        model: A model with two adapters or more.
        names: The names of the adapters to compare; `None` for all.

    Returns:
        A `Similarity`; print it.

    Raises:
        ValueError: If there are fewer than two adapters, a name is unknown, or
            values are not finite.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    >>> for name in ("a", "b"):
    ...     _ = ksa.enable(model, ksa.SVF(), name=name)
    ...     _ = model.trainable_weights[0].assign(keras.ops.arange(1.0, 7.0))
    >>> round(ksa.similarity(model).cosine("a", "b"), 3)
    1.0
    """
    chosen = _chosen(model, names)
    require_values(model, f"similarity of {chosen}")
    found: dict[Pair, list[KernelSimilarity]] = {pair: [] for pair in combinations(chosen, 2)}
    for site in require_adapter(model):
        for pair, kernel in _compared(site, chosen):
            found[pair].append(kernel)
    return Similarity(tuple(PairSimilarity(pair, tuple(some)) for pair, some in found.items()))


def _chosen(model: keras.layers.Layer, names: Sequence[str] | None) -> list[str]:
    """Return the names of the adapters to compare; raise if any is missing or too few remain."""
    known = attached_names(require_adapter(model))
    chosen = known if names is None else _listed(names)
    for name in chosen:
        require_adapter(model, name)
    if len(chosen) < 2:
        raise ValueError(
            "A comparison needs two adapters: `enable` or `load_adapter` another one, with a "
            f"`name=` of its own. Received: adapters {chosen}"
        )
    return chosen


def _listed(names: Any) -> list[str]:
    listed = list(names) if isinstance(names, list | tuple) else []
    words = all(isinstance(name, str) for name in listed)
    if not words or len(set(listed)) < len(listed) or len(listed) < 2:
        raise ValueError(
            "`names` is a list of two different adapters or more, such as `['a', 'b']`, or `None` "
            f"for all. Received: names={names!r}"
        )
    return listed


def _compared(site: Site, chosen: list[str]) -> Iterator[tuple[Pair, KernelSimilarity]]:
    """Yield each pair of adapters of this kernel, for each matrix of the kernel."""
    carried = [name for name in chosen if name in adapters_of(site.layer)]
    if len(carried) < 2:
        return
    changes = dict(zip(carried, (kernel_updates(site, name) for name in carried), strict=True))
    for place, (path, _) in enumerate(site.matrices()):
        for first, second in combinations(carried, 2):
            a, b = changes[first][place], changes[second][place]
            norms = float(np.linalg.norm(a)), float(np.linalg.norm(b))
            yield (first, second), KernelSimilarity(path, float(np.vdot(a, b)), norms)
