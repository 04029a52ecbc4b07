"""Predicting and generating with one adapter per sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.graphs import computing_otherwise
from keras_svd_adapters.host import adapters_of
from keras_svd_adapters.keras_internals import attach_child, detach_child, refresh_torch_parameters
from keras_svd_adapters.mixture import AdapterIds, Mixture, groups_of
from keras_svd_adapters.site import adapted_sites
from keras_svd_adapters.switching import require_adapter, require_values

CHILD = "adapter_ids"


def predict(
    model: keras.Model,
    x: Any,
    adapter_ids: Sequence[str | None],
    batch_size: int = 32,
) -> Any:
    """As `model.predict(x)`, where each sample has an adapter of its own.

    A batch may hold samples of many adapters; the base model runs once for it.
    What `train=` trained is part of the model, whichever adapter.

    Args:
        model: A model with adapters.
        x: A NumPy array or tensor, or a list or dictionary of such.
        adapter_ids: For each sample the name of its adapter, `None` for the
            plain model.
        batch_size: How many samples are computed at a time.

    Returns:
        What `model.predict` returns: NumPy arrays.

    Raises:
        ValueError: If a name is unknown, the numbers of samples differ, or an
            adapted layer cannot tell samples apart.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    >>> for name in ("a", "b"):
    ...     _ = ksa.enable(model, ksa.SVF(), name=name)
    >>> ksa.predict(model, keras.ops.ones((3, 8)), ["a", None, "b"]).shape
    (3, 2)
    """
    x = keras.tree.map_structure(keras.ops.convert_to_numpy, x)
    count = len(keras.tree.flatten(x)[0])
    ids = _check(model, adapter_ids, count)
    if type(batch_size) is not int or batch_size < 1:
        raise ValueError(f"`batch_size` is a positive integer. Received: {batch_size!r}")
    size = min(batch_size, count)
    found = []
    with _mixed(model, ids, size) as chosen:
        for start in range(0, count, size):
            places = np.minimum(np.arange(start, start + size), count - 1)
            chosen.choose([ids[place] for place in places])
            y = model.predict_on_batch(keras.tree.map_structure(lambda a: a[places], x))  # noqa: B023
            found.append(y)
    return keras.tree.map_structure(lambda *parts: np.concatenate(parts)[:count], *found)


def generate(model: keras.Model, inputs: Any, adapter_ids: Any, **how: Any) -> Any:
    """As `model.generate(inputs)` of a KerasHub task, where each prompt has an adapter of its own.

    Args:
        model: A KerasHub task with adapters.
        inputs: A prompt, a list of prompts, or what the task's preprocessor makes
            of such.
        adapter_ids: For each prompt the name of its adapter, `None` for the plain
            model.
        **how: What `model.generate` takes besides, such as `max_length`.

    Returns:
        What `model.generate` returns.

    Raises:
        ValueError: As `predict`.
    """
    if isinstance(inputs, str):
        adapter_ids = [adapter_ids] if isinstance(adapter_ids, str | None) else adapter_ids
        count = 1
    else:
        count = len(inputs if isinstance(inputs, list | tuple) else keras.tree.flatten(inputs)[0])
    ids = _check(model, adapter_ids, count)
    with _mixed(model, ids, count) as chosen:
        chosen.choose(ids)
        return model.generate(inputs, **how)


def _check(model: keras.Model, adapter_ids: Any, count: int) -> list[str | None]:
    if not isinstance(adapter_ids, Sequence) or isinstance(adapter_ids, str):
        raise ValueError(
            "`adapter_ids` has the name of an adapter for each sample, such as `['a', 'b', None]`. "
            f"Received: adapter_ids={adapter_ids!r}"
        )
    ids = list(adapter_ids)
    if len(ids) != count or not count:
        raise ValueError(
            f"Each sample has one adapter: there are {count} samples. "
            f"Received: {len(ids)} adapter_ids"
        )
    for name in set(ids) - {None}:
        require_adapter(model, name)
    require_values(model, "a mixed batch")
    return ids


@contextmanager
def _mixed(model: keras.Model, ids: list[str | None], size: int) -> Iterator[AdapterIds]:
    """Within, each sample of a batch has the adapter that is chosen for it."""
    names = tuple(sorted(set(ids), key=lambda name: name or ""))
    chosen = _holder(model, names, size)
    ways, carrier = [], None
    for site in adapted_sites(model):
        groups = groups_of(adapters_of(site.layer), names)
        ways.append(site.layer.mixed(Mixture(chosen, groups)) if groups else site.layer.base())
        carrier = carrier or (site.layer if groups else None)
    if carrier is None:
        with computing_otherwise(model, ways):
            yield chosen
        return
    attach_child(carrier, CHILD, chosen)
    refresh_torch_parameters(model)
    try:
        with computing_otherwise(model, ways):
            yield chosen
    finally:
        detach_child(carrier, CHILD)
        refresh_torch_parameters(model)


def _holder(model: keras.Model, names: tuple[str | None, ...], size: int) -> AdapterIds:
    """The one that graphs traced for these names and this size read, if there are such."""
    holders = vars(model).setdefault("adapter_id_holders", {})
    return holders.setdefault((names, size), AdapterIds(names, size))
