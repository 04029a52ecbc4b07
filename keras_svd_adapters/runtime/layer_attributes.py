"""Layer paths in Keras's files: the layers of a model as attributes of each other.

These paths are the only names of layers that survive a rebuild: `layer.path` changes or repeats in
a dozen KerasHub families. `tests/runtime/test_keras_private.py` fails if Keras gives other paths.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import keras

OF_KINDS = {  # models whose layers come first, and their attributes that repeat the layers
    keras.Sequential: ("_functional",),
    keras.Function: ("operations", "_operations"),
}
UNTRACKED = "_self_unconditional_dependency_names"
PACKAGE = __name__.partition(".")[0]
HOLDERS = (keras.layers.Layer, list, tuple, dict)
WEIGHTS = ("kernel", "embeddings")
METHODS_OF_CLASSES = (FunctionType, classmethod, staticmethod)
_known_classes: WeakKeyDictionary[type, tuple[int, list[str]]] = WeakKeyDictionary()


def walk(model: keras.layers.Layer) -> Iterator[tuple[str, tuple[keras.layers.Layer, ...]]]:
    """Yield every layer of a model once, with its path and the layers from the root to it."""
    seen: set[int] = set()

    def visit(layer: Any, path: str, chain: tuple[Any, ...]) -> Iterator[Any]:
        if id(layer) in seen:
            return
        seen.add(id(layer))
        chain = (*chain, layer)
        yield path, chain
        for attribute, child in children(layer):
            yield from visit_child(child, f"{path}/{attribute}" if path else attribute, chain)

    def visit_child(child: Any, path: str, chain: tuple[Any, ...]) -> Iterator[Any]:
        if isinstance(child, keras.layers.Layer):
            yield from visit(child, path, chain)
        elif isinstance(child, (list, tuple, dict)):
            yield from visit_container(child, path, chain, set())

    def visit_container(
        items: Any, path: str, chain: tuple[Any, ...], within: set[int]
    ) -> Iterator[Any]:
        if id(items) in within:
            return
        within = within | {id(items)}
        used: dict[str, int] = {}
        for item in list(items.values()) if isinstance(items, dict) else items:
            if isinstance(item, (list, tuple, dict)):
                name = _unique_name("container", used)
                yield from visit_container(item, f"{path}/{name}", chain, within)
            elif hasattr(item, "save_own_variables"):
                name = _unique_name(item.__class__.__name__, used)
                yield from visit_child(item, f"{path}/{name}", chain)

    yield from visit(model, "", ())


def children(layer: keras.layers.Layer) -> Iterator[tuple[str, Any]]:
    """Yield the attributes that may hold layers, in the order of the traversal of `saving_lib`.

    The result equals `_walk_saveable` without the attributes that hold no layer, which are nearly
    all. `_walk_saveable` lists and reads about 300 attributes of each layer.
    """
    kind = next((kind for kind in OF_KINDS if isinstance(layer, kind)), keras.layers.Layer)
    if kind in OF_KINDS:
        yield "layers", layer.layers
    skipped = _skipped_attributes(kind)
    held = vars(layer) | vars(layer).get("_modules", {})  # PyTorch adds `_modules`
    found = {
        name: value
        for name, value in held.items()
        if isinstance(value, HOLDERS) and name not in skipped and not name.startswith("__")
    }
    for name in _read_by_class(type(layer), skipped):
        found.pop(name, None)
        try:
            value = getattr(layer, name)
        except Exception:
            continue
        if isinstance(value, HOLDERS):
            found[name] = value
    for name in sorted(found, key=lambda name: f"~{name}" if name.startswith("_") else name):
        yield name, found[name]


@cache
def _skipped_attributes(kind: type) -> frozenset[str]:
    """Return the attributes that Keras's traversal skips: those of every layer, and a few."""
    return frozenset([*dir(keras.layers.Layer()), UNTRACKED, *OF_KINDS.get(kind, ())])


def _unique_name(class_name: str, used: dict[str, int]) -> str:
    """Return the name of a container's item in a path; `used` counts the names before it."""
    name = re.sub(r"\W+", "", class_name)
    for boundary in ("(.)([A-Z][a-z]+)", "([a-z])([A-Z])"):
        name = re.sub(boundary, r"\1_\2", name)
    name = name.lower()
    used[name] = used.get(name, -1) + 1
    return f"{name}_{used[name]}" if used[name] else name


def _read_by_class(cls: type, skipped: frozenset[str]) -> list[str]:
    """Return the properties and values of a class that must be read from an instance.

    The list excludes the attributes of this package, which hold no layer, and Keras's own
    attributes of weights. Some of these attributes compute a kernel when code reads them.
    """
    size = sum(len(vars(parent)) for parent in cls.__mro__)
    if (known := _known_classes.get(cls)) and known[0] == size:
        return known[1]
    owners = {name: parent for parent in reversed(cls.__mro__) for name in vars(parent)}
    names = [
        name
        for name, owner in owners.items()
        if name not in skipped
        and name not in WEIGHTS
        and not name.startswith("__")
        and not owner.__module__.startswith(f"{PACKAGE}.")
        and not isinstance(vars(owner)[name], METHODS_OF_CLASSES)
    ]
    _known_classes[cls] = size, names
    return names
