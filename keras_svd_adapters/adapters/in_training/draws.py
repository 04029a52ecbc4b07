"""Random numbers of an adapter: dropout, and the draws of a method in each training step."""

from __future__ import annotations

import random
from typing import Any

import keras
from keras import ops

from keras_svd_adapters.kernels.placement import place_variable, without_layout_map
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.runtime.processes import broadcast_from

FIXED = 0.5
EDGE = 1e-6  # a logarithm of a drawn number, or of its difference from 1, is finite


def seed_generator_of(method: Method, shapes: dict[str, Any]) -> keras.random.SeedGenerator | None:
    """Return the generator of an adapter, or `None` if its method needs no random numbers."""
    drops = bool(getattr(method, "dropout", 0.0))
    if not (shapes or drops):
        return None
    seed = broadcast_from(0, lambda: random.getrandbits(31))
    if method.draws_alike:
        seed = method.seed  # type: ignore[attr-defined]
    # Without its own seed, Keras on torch would draw from a state that no file stores.
    with without_layout_map():
        generator = keras.random.SeedGenerator(seed, "dropout")
    place_variable(generator.state)
    return generator


def drawn(
    shapes: dict[str, tuple[int, ...]], generator: keras.random.SeedGenerator | None
) -> dict[str, Any]:
    """Return uniform numbers in (0, 1) by name; without a generator, 1/2."""
    if generator is None:
        return {name: ops.full(shape, FIXED, "float32") for name, shape in shapes.items()}
    return {
        name: keras.random.uniform(shape, EDGE, 1 - EDGE, "float32", generator)
        for name, shape in shapes.items()
    }
