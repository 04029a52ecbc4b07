"""The weights of a model outside its adapters, and the selection of those that also train."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

import keras

from keras_svd_adapters.adapters.layer_kinds import base_kernel_variable
from keras_svd_adapters.adapters.own_values import owners_of
from keras_svd_adapters.adapters.stored_arrays import StoredArrays
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.runtime.keras_private.layers import all_layers, direct_weights
from keras_svd_adapters.runtime.layer_attributes import walk

BIASES = ("none", "adapted", "all")


def base_weights(model: keras.layers.Layer) -> Iterator[tuple[str, str, keras.Variable]]:
    """Yield every weight outside the adapters: its key in files, its path of names, itself."""
    seen: set[int] = set()
    for key, chain in walk(model):
        if any(isinstance(parent, StoredArrays) for parent in chain):
            continue
        path = "/".join(parent.name for parent in chain[1:])
        for index, weight in enumerate(direct_weights(chain[-1])):
            if id(weight) not in seen:
                seen.add(id(weight))
                name = weight.name
                yield f"{key}/{index}_{name}".lstrip("/"), f"{path}/{name}".lstrip("/"), weight


def select_weights(
    model: keras.layers.Layer, train: str | Iterable[str] | None, name: str, sites: list[Site]
) -> list[keras.Variable]:
    """Return the weights that `train` names: those of a layer, or of a path such as `*/bias`.

    Args:
        model: A built model.
        train: Names, paths or globs.
        name: Name of the adapter that the weights train with.
        sites: The adapted kernels, which cannot train themselves.

    Returns:
        A list of weights. If one belongs to a batch normalization, the list has
        all weights of that layer, since its statistics then move.

    Raises:
        ValueError: If a pattern names nothing, an adapted kernel, or a weight
            that trains with another adapter, which stays active.
    """
    chosen: dict[str, keras.Variable] = {}
    listed = train if isinstance(train, Iterable) and not isinstance(train, str) else [train]
    patterns: list[Any] = [] if train is None else list(listed)
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(
            "`train` names layers or weights, such as 'head' or ['head', '*/bias']. "
            f"Received: train={train!r}"
        )
    weights = list(base_weights(model))
    for pattern in patterns:
        hits = {key: weight for key, path, weight in weights if _names(pattern, path)}
        if not hits:
            layers = sorted({path.rsplit("/", 1)[0] for _, path, _ in weights})
            raise ValueError(
                "`train` matches no layer and no weight. Name a layer, or a path with `*`, such "
                f"as '*/bias'; the layers with weights are {', '.join(layers)}. "
                f"Received: train={pattern!r}"
            )
        chosen |= hits
    found = list(chosen.values())
    check_weights(model, found, f"train={train!r}", name, sites)
    return _with_statistics(model, found)


def check_weights(
    model: keras.layers.Layer,
    chosen: list[keras.Variable],
    asked: str,
    name: str,
    sites: list[Site],
) -> None:
    """Raise an error if weights cannot train with an adapter of this name on these sites."""
    kernels = {
        id(base_kernel_variable(site.layer)): site.path
        for site in [*sites, *adapted_sites(model)]
        if site.host.has_kernel
    }
    taken = {id(site.layer) for site in sites}
    staying = [site.layer for site in adapted_sites(model) if id(site.layer) not in taken]
    others = {other for layer in staying for other in layer.active_adapters} - {name}
    for weight in chosen:
        if id(weight) in kernels:
            raise ValueError(
                f"`train` names `{kernels[id(weight)]}`, which is adapted. Leave it out with "
                f"`exclude`, or name other weights in `train`. Received: {asked}"
            )
        for other in sorted(others & set(owners_of(weight))):
            raise ValueError(
                f"`{weight.path}` trains with the adapter {other!r}, which stays active on other "
                "layers, and a weight has the values of one adapter at a time: leave it out of "
                "`train`, or call `set_adapter(model, None)` first. "
                f"Received: {asked}, name={name!r}"
            )


def select_biases(
    model: keras.layers.Layer, bias: str, name: str, sites: list[Site]
) -> list[keras.Variable]:
    """Return the biases that also train: of no layer, of the adapted layers, or of all layers.

    Args:
        model: A built model.
        bias: `"none"`, `"adapted"` or `"all"`.
        name: Name of the adapter that the biases train with.
        sites: The kernels that the adapter covers.

    Returns:
        A list of weights.

    Raises:
        ValueError: If there is no such bias.
    """
    if bias not in BIASES:
        raise ValueError(f"`bias` must be one of {BIASES}. Received: bias={bias!r}")
    if bias == "none":
        return []
    adapted = {id(weight) for site in sites for weight in direct_weights(site.owner)}
    biases = [
        weight
        for _, _, weight in base_weights(model)
        if weight.name == "bias" and (bias == "all" or id(weight) in adapted)
    ]
    if not biases:
        raise ValueError(
            "There is no such bias to train: leave `bias` out, or name other weights in `train`. "
            f"Received: bias={bias!r}"
        )
    check_weights(model, biases, f"bias={bias!r}", name, sites)
    return _with_statistics(model, biases)


def _with_statistics(
    model: keras.layers.Layer, weights: list[keras.Variable]
) -> list[keras.Variable]:
    wanted = {id(weight): weight for weight in weights}
    for layer in all_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            own = {id(weight): weight for weight in layer.weights}
            wanted |= own if own.keys() & wanted.keys() else {}
    return list(wanted.values())


def weights_with(model: keras.layers.Layer, name: str) -> Iterator[tuple[str, str, keras.Variable]]:
    """Yield, as `base_weights`, the weights that train with this adapter or with none."""
    for key, path, weight in base_weights(model):
        owners = owners_of(weight)
        if name in owners or (weight.trainable and not owners):
            yield key, path, weight


def _names(pattern: str, path: str) -> bool:
    """Whether a pattern names the weight at a path, or a layer above it."""
    parts = path.split("/")
    spans = {"/".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1)}
    return any(fnmatchcase(span, pattern) for span in spans)
