"""What trains in an adapted model, and the compiled functions that must learn of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase

import keras

from keras_svd_adapters.adapter import Adapter
from keras_svd_adapters.host import base_kernel
from keras_svd_adapters.keras_internals import (
    all_layers,
    direct_weights,
    fresh_optimizer,
    hold_still,
    let_move,
    let_train,
    models_around,
    pin,
    refresh_torch_parameters,
    trainable_by_birth,
    unpin,
    walk,
)
from keras_svd_adapters.site import Site, adapted_sites

GRAPHS = ("train_function", "test_function", "predict_function", "generate_function")


def own_weights(model: keras.layers.Layer) -> Iterator[tuple[str, str, keras.Variable]]:
    """Every weight outside the adapters: its key in files, its path of names, itself."""
    seen: set[int] = set()
    for key, chain in walk(model):
        if any(isinstance(parent, Adapter) for parent in chain):
            continue
        path = "/".join(parent.name for parent in chain[1:])
        for index, weight in enumerate(direct_weights(chain[-1])):
            if id(weight) not in seen:
                seen.add(id(weight))
                name = weight.name
                yield f"{key}/{index}_{name}".lstrip("/"), f"{path}/{name}".lstrip("/"), weight


def choose_weights(
    model: keras.layers.Layer, train: str | Iterable[str] | None, name: str, sites: list[Site]
) -> list[keras.Variable]:
    """The weights that `train` names: those of a layer, or of a path such as `*/bias`.

    Args:
        model: A built model.
        train: Names, paths or globs.
        name: Name of the adapter with which they train.
        sites: The kernels that it adapts, which cannot train themselves.

    Returns:
        A list of weights. With a weight of a batch normalization come all of
        that layer's, since its statistics then move.

    Raises:
        ValueError: If a pattern names nothing, an adapted kernel, or what
            trains with another adapter.
    """
    chosen: dict[str, keras.Variable] = {}
    patterns = [train] if isinstance(train, str) else list(train or [])
    weights = list(own_weights(model))
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
    kernels = {id(base_kernel(site.layer)): site.path for site in [*sites, *adapted_sites(model)]}
    for weight in chosen.values():
        if id(weight) in kernels:
            raise ValueError(
                f"`train` names the kernel of `{kernels[id(weight)]}`, which is adapted. Leave "
                f"the layer out with `exclude`, or train its bias alone. Received: train={train!r}"
            )
        if trained_with(weight) not in (None, name):
            raise ValueError(
                f"`{weight.path}` trains with the adapter {trained_with(weight)!r} already, and a "
                f"weight can belong to one only. Received: train={train!r}, name={name!r}"
            )
    return _with_statistics(model, list(chosen.values()))


def _with_statistics(
    model: keras.layers.Layer, weights: list[keras.Variable]
) -> list[keras.Variable]:
    wanted = {id(weight): weight for weight in weights}
    for layer in all_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            own = {id(weight): weight for weight in layer.weights}
            wanted |= own if own.keys() & wanted.keys() else {}
    return list(wanted.values())


def trained_with(weight: keras.Variable) -> str | None:
    """The name of the adapter together with which a weight of the model trains."""
    return getattr(weight, "trained_with", None)


def _names(pattern: str, path: str) -> bool:
    """Whether a pattern names the weight at a path, or a layer above it."""
    parts = path.split("/")
    spans = {"/".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1)}
    return any(fnmatchcase(span, pattern) for span in spans)


def pin_all_but(model: keras.layers.Layer, free: Iterable[keras.Variable]) -> None:
    """Freezes every weight outside the adapters but these, for good.

    A batch normalization that is frozen keeps its moving statistics, too.
    """
    kept = {id(weight) for weight in free}
    for _, _, weight in own_weights(model):
        unpin(weight) if id(weight) in kept else pin(weight)
    for layer in all_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            still = not any(id(weight) in kept for weight in layer.weights)
            hold_still(layer) if still else let_move(layer)


def thaw(model: keras.layers.Layer, weights: Iterable[keras.Variable]) -> None:
    """Lets these weights train, and the layers above them."""
    wanted = {id(weight) for weight in weights}
    for layer in all_layers(model):
        for weight in trainable_by_birth(layer):
            if id(weight) in wanted:
                weight.trainable = True
        if any(id(weight) in wanted for weight in layer.weights):
            let_train(layer)


def release(model: keras.layers.Layer) -> None:
    """Gives weights and layers back the `trainable` that they had before the first adapter.

    Also in the models around this one, but nowhere that an adapter remains.
    """
    around = models_around(all_layers(model))
    adapted = [other for other in around if adapted_sites(other)]
    kept = {id(layer) for other in adapted for layer in all_layers(other)}
    for layer in {id(x): x for other in [model, *around] for x in all_layers(other)}.values():
        if id(layer) not in kept:
            for weight in direct_weights(layer):
                unpin(weight)
            let_move(layer)


def forget_graphs(model: keras.layers.Layer, new_trainables: bool = True) -> None:
    """Makes every model that shares layers with this one trace and build again.

    Args:
        model: A model that gained, lost or switched an adapter.
        new_trainables: Whether other variables train than before, so that an
            optimizer that is built must start over.
    """
    for around in models_around(all_layers(model)):
        for graph in GRAPHS:
            if getattr(around, graph, None) is not None:
                setattr(around, graph, None)
        refresh_torch_parameters(around)
        optimizer = getattr(around, "optimizer", None)
        if new_trainables and optimizer is not None and optimizer.built:
            around.optimizer = fresh_optimizer(optimizer)
            warnings.warn(
                f"The optimizer of `{around.name}` was built for other variables; it was replaced "
                "by a fresh copy with the same settings, `model.optimizer`. Call "
                "`model.compile(...)` to choose another.",
                stacklevel=4,
            )


@contextmanager
def other_graphs(model: keras.layers.Layer) -> Iterator[None]:
    """Within, the models around this one trace anew; after, their graphs are back."""
    kept = [
        (around, graph, getattr(around, graph), getattr(around, "optimizer", None))
        for around in models_around(all_layers(model))
        for graph in GRAPHS
        if getattr(around, graph, None) is not None
    ]
    forget_graphs(model, new_trainables=False)
    try:
        yield
    finally:
        forget_graphs(model, new_trainables=False)
        for around, graph, function, optimizer in kept:
            if getattr(around, "optimizer", None) is optimizer:
                setattr(around, graph, function)
