"""A layer whose weights have other values for each of several adapters.

Several adapters train the same weight, or adapt the same bias or the same vector of a
normalization. In a batch of mixed adapters, the layer computes once for each set of values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.class_mixing import add_mixin, remove_mixin
from keras_svd_adapters.adapters.layers.read_weight import ReadKernel
from keras_svd_adapters.adapters.layers.recurrent import kernels_below
from keras_svd_adapters.adapters.mode import Mode, current_mode, in_mode
from keras_svd_adapters.adapters.own_values import own_values, variable_of
from keras_svd_adapters.adapters.per_sample import AdapterIds, samples_of
from keras_svd_adapters.adapters.refusals import refuse_per_sample, refuse_to_clone
from keras_svd_adapters.runtime.threads.context_values import with_value

_computing: ContextVar[frozenset[int]] = ContextVar("_computing", default=frozenset())
_read_outside: ContextVar[list[str] | None] = ContextVar("_read_outside", default=None)


class WatchedVariable:
    """Mixin of a weight with values for several adapters while a model is tried with a batch."""

    @property
    def value(self) -> Any:
        noted = _read_outside.get()  # `None` in other threads, which may compute meanwhile
        if noted is not None and id(self) not in _computing.get():
            noted.append(self.path)  # type: ignore[attr-defined]
        return super().value  # type: ignore[misc]


@contextmanager
def refuse_reads_outside(weights: Iterable[keras.Variable]) -> Iterator[None]:
    """Context manager: if code reads a weight outside the `call` of its layer, raise at the end."""
    noted: list[str] = []
    try:
        with with_value(_read_outside, noted), ExitStack() as stack:
            for weight in weights:
                add_mixin(weight, WatchedVariable)
                stack.callback(remove_mixin, weight, WatchedVariable)
            yield
    finally:
        if noted:
            refuse_per_sample(f"{noted[0]}, read outside of its layer")


class OwnValuesLayer:
    """Mixin of a layer with such weights: each sample of a batch uses those of its adapter."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        refuse_to_clone(config.get("name"))

    def call(self, *args: Any, **kwargs: Any) -> Any:
        mode, call = current_mode(), super().call  # type: ignore[misc]
        if mode.ids is None or not mode.ids.chooses:
            return call(*args, **kwargs)
        return _call_for_each(self, partial(call, *args, **kwargs), mode, mode.ids)


def _call_for_each(layer: Any, call: Callable[[], Any], mode: Mode, ids: AdapterIds) -> Any:
    """Call a layer for a batch whose samples have adapters with other values of its weights."""
    weights = [weight for weight in layer.weights if own_values(weight)]
    if getattr(layer, "stateful", False):
        refuse_per_sample(f"{layer.path}, whose state would be lost")
    with with_value(_computing, _computing.get() | set(map(id, weights))):
        return _of_groups(layer, call, mode, ids, weights)


def _of_groups(
    layer: Any,
    call: Callable[[], Any],
    mode: Mode,
    ids: AdapterIds,
    weights: list[keras.Variable],
) -> Any:
    """Return the outputs of all samples, computed once for each set of values of the weights."""
    vectors = [each for each in vectors_of(layer) if id(each) in mode.per_sample]
    groups: dict[tuple[Any, ...], list[str | None]] = {}
    for name in ids.names:
        variables = tuple(id(variable_of(weight, name)) for weight in weights)
        adapted = tuple(name if name in adapters_of(each) else None for each in vectors)
        groups.setdefault((variables, adapted), []).append(name)
    if ids.probe_rows or groups.keys() == {(tuple(map(id, weights)), (None,) * len(vectors))}:
        with in_mode(_with_vectors(mode, vectors, None)):
            y = call()
        keras.tree.map_structure(partial(samples_of, chosen=ids), y)
        return y
    y = None
    for names in groups.values():
        same = tuple(name if name in names else names[0] for name in ids.names)
        values = [(v, ops.convert_to_tensor(v)) for v in layer.variables]
        values += [(w, ops.convert_to_tensor(variable_of(w, names[0]))) for w in weights]
        of_group = _with_vectors(mode, vectors, names[0])
        with in_mode(replace(of_group, ids=replace(ids, names=same))), keras.StatelessScope(values):
            found = call()
        here = np.array([name in names for name in ids.names])
        y = found if y is None else keras.tree.map_structure(partial(_where, here, ids), found, y)
    return y


def vectors_of(layer: keras.layers.Layer) -> list[ReadKernel]:
    """Return the vectors with adapters of a layer, and of the layers below it."""
    return [each for each in kernels_below(layer) if each.is_vector]


def _with_vectors(mode: Mode, vectors: list[ReadKernel], name: str | None) -> Mode:
    """Return a mode in which vectors have the adapter of this name, or no adapter."""
    chosen = {id(each): name for each in vectors if name is not None and name in adapters_of(each)}
    return replace(
        mode,
        base=mode.base | ({id(each) for each in vectors} - chosen.keys()),
        per_sample={k: v for k, v in mode.per_sample.items() if k not in set(map(id, vectors))},
        chosen={**mode.chosen, **chosen},
    )


def _where(here: np.ndarray, ids: AdapterIds, found: Any, y: Any) -> Any:
    """Return rows of `found` for the samples whose adapter is `here`, of `y` for the others."""
    samples = samples_of(found, ids)
    mask = ops.reshape(ops.take(here, ids.ids, axis=0), (-1,) + (1,) * (len(samples.shape) - 1))
    return ops.reshape(ops.where(mask, samples, samples_of(y, ids)), ops.shape(found))
