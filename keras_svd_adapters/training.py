"""What trains in an adapted model, and the compiled functions that must learn of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import keras

from keras_svd_adapters.adapter import Adapter
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


def choose_weights(model: keras.layers.Layer, train: str | Iterable[str] | None) -> dict[str, Any]:
    """The weights that `train` names, by key: of a layer, or of a path such as `*/bias`."""
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
    return chosen


def _names(pattern: str, path: str) -> bool:
    """Whether a pattern names the weight at a path, or a layer above it."""
    parts = path.split("/")
    spans = {"/".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1)}
    return any(fnmatchcase(span, pattern) for span in spans)


def freeze_except(
    model: keras.layers.Layer, chains: Iterable[tuple[keras.layers.Layer, ...]], train: Iterable[Any]
) -> None:
    """Pins every weight outside the adapters but those in `train`.

    Args:
        model: The adapted model.
        chains: For each adapted layer, the layers from the model to it; they
            must let their weights train.
        train: The weights that train besides.
    """
    kept = {id(weight) for weight in train}
    born = {id(v) for layer in all_layers(model) for v in trainable_by_birth(layer)}
    for _, _, weight in own_weights(model):
        unpin(weight)
        if id(weight) not in kept:
            pin(weight)
        elif id(weight) in born:
            weight.trainable = True
    for layer in {id(layer): layer for chain in chains for layer in chain}.values():
        let_train(layer)
    for layer in all_layers(model):
        if any(id(weight) in kept for weight in layer.weights):
            let_train(layer)
        elif isinstance(layer, keras.layers.BatchNormalization):
            hold_still(layer)  # a frozen one keeps its moving statistics, too


def release(model: keras.layers.Layer) -> None:
    """Gives every weight back the `trainable` that it had before the first adapter."""
    for _, _, weight in own_weights(model):
        unpin(weight)
    for layer in all_layers(model):
        let_move(layer)


def forget_graphs(layers: list[keras.layers.Layer], new_trainables: bool = True) -> None:
    """Makes every model around these layers trace and build again.

    Args:
        layers: Layers that gained, lost or switched an adapter.
        new_trainables: Whether other variables train than before, so that an
            optimizer that is built must start over.
    """
    for model in models_around(layers):
        for graph in GRAPHS:
            if getattr(model, graph, None) is not None:
                setattr(model, graph, None)
        refresh_torch_parameters(model)
        optimizer = getattr(model, "optimizer", None)
        if new_trainables and optimizer is not None and optimizer.built:
            model.optimizer = fresh_optimizer(optimizer)
            warnings.warn(
                f"The optimizer of `{model.name}` was built for other variables; it was replaced "
                "by a fresh copy with the same settings, `model.optimizer`. Call "
                "`model.compile(...)` to choose another.",
                stacklevel=4,
            )


@contextmanager
def other_graphs(layers: list[keras.layers.Layer]) -> Iterator[None]:
    """Within, the models around these layers trace anew; after, their graphs are back."""
    kept = [
        (model, graph, getattr(model, graph))
        for model in models_around(layers)
        for graph in GRAPHS
        if getattr(model, graph, None) is not None
    ]
    forget_graphs(layers, new_trainables=False)
    try:
        yield
    finally:
        forget_graphs(layers, new_trainables=False)
        for model, graph, function in kept:
            setattr(model, graph, function)
