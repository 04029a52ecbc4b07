"""Predict and generate with one adapter per sample."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import keras
import numpy as np

from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.per_sample import AdapterIds, Names, PerSampleAdapters, groups_of
from keras_svd_adapters.adapters.refusals import PerSampleError
from keras_svd_adapters.kernels.quantized import holds_integers
from keras_svd_adapters.models.named_adapters import require_adapter, require_values
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.state.compiled_functions import KEPT, with_temporary_functions
from keras_svd_adapters.runtime.keras_private.layers import attach_child, detach_child
from keras_svd_adapters.runtime.keras_private.tracing import trace_shapes

CHILD = "adapter_ids"
PRIMES = (11, 13)
_HOLDERS: WeakKeyDictionary[keras.Model, OrderedDict[Any, AdapterIds]] = WeakKeyDictionary()


def predict(
    model: keras.Model,
    x: Any,
    adapter_ids: Sequence[str | None],
    batch_size: int = 32,
) -> Any:
    """Predict as `model.predict(x)`, with one adapter per sample.

    A batch may hold samples of many adapters; the base model runs once per batch.
    Weights that `train=` trained are part of the model, whatever the adapter.

    Args:
        model: A model with adapters.
        x: A NumPy array or tensor, or a list or dictionary of these.
        adapter_ids: For each sample, the name of its adapter, or `None` for the
            plain model.
        batch_size: Number of samples per batch.

    Returns:
        The result of `model.predict`: NumPy arrays.

    Raises:
        ValueError: If a name is unknown, the numbers of samples differ, or an
            adapted layer cannot distinguish samples.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    >>> for name in ("a", "b"):
    ...     _ = ksa.enable(model, ksa.SVF(), name=name)
    >>> ksa.predict(model, keras.ops.ones((3, 8)), ["a", None, "b"]).shape
    (3, 2)
    """
    x, count = _arrays(x)
    ids = _check(model, adapter_ids, count)
    if type(batch_size) is not int or batch_size < 1:
        raise ValueError(f"`batch_size` is a positive integer. Received: {batch_size!r}")
    size = min(batch_size, count)
    found = []
    with _mixed(model, ids, size, x) as chosen:
        for start in range(0, count, size):
            places = np.minimum(np.arange(start, start + size), count - 1)
            chosen.choose([ids[place] for place in places])
            y = model.predict_on_batch(keras.tree.map_structure(lambda a: a[places], x))  # noqa: B023
            found.append(y)
    return keras.tree.map_structure(lambda *parts: np.concatenate(parts)[:count], *found)


def generate(model: keras.Model, inputs: Any, adapter_ids: Any, **how: Any) -> Any:
    """Generate as `model.generate(inputs)` of a KerasHub task, with one adapter per prompt.

    Args:
        model: A KerasHub task with adapters.
        inputs: A prompt, a list of prompts, or the output of the task's
            preprocessor for these.
        adapter_ids: For each prompt, the name of its adapter, or `None` for the
            plain model.
        **how: Other arguments of `model.generate`, such as `max_length`.

    Returns:
        The result of `model.generate`.

    Raises:
        ValueError: As in `predict`.
    """
    if not hasattr(model, "generate"):
        raise ValueError(
            "Only a KerasHub task, such as a `GemmaCausalLM`, can generate; its backbone cannot. "
            f"Received: {type(model).__name__} {model.name!r}"
        )
    if isinstance(inputs, str):
        adapter_ids = [adapter_ids] if isinstance(adapter_ids, str | None) else adapter_ids
        count = 1
    else:
        count = len(inputs if isinstance(inputs, list | tuple) else keras.tree.flatten(inputs)[0])
    ids = _check(model, adapter_ids, count)
    with _mixed(model, ids, count, getattr(model, "input", None)) as chosen:
        chosen.choose(ids)
        return model.generate(inputs, **how)


def _arrays(x: Any) -> tuple[Any, int]:
    """Return inputs as NumPy arrays, and their number of samples."""
    if isinstance(x, list | tuple) and all(np.ndim(part) == 0 for part in keras.tree.flatten(x)):
        x = np.array(x)
    x = keras.tree.map_structure(_to_numpy, x)
    sizes = {len(part) if np.ndim(part) else 0 for part in keras.tree.flatten(x)}
    if len(sizes) != 1 or not min(sizes):
        raise ValueError(
            "`x` must be an array, or a list or dictionary of arrays with the same number of "
            f"samples. Received: samples {sorted(sizes)}"
        )
    return x, min(sizes)


def _to_numpy(value: Any) -> np.ndarray:
    is_tensor = keras.ops.is_tensor(value) or isinstance(value, keras.Variable)
    return keras.ops.convert_to_numpy(value) if is_tensor else np.asarray(value)


def _of_rows(value: Any, rows: int) -> keras.KerasTensor:
    """Return the shape of an input with `rows` samples; any other open size becomes 8."""
    shape = tuple(8 if size is None else size for size in value.shape[1:])
    return keras.KerasTensor((rows, *shape), str(value.dtype))


def _check(model: keras.Model, adapter_ids: Any, count: int) -> list[str | None]:
    if isinstance(adapter_ids, np.ndarray):
        adapter_ids = adapter_ids.tolist()
    if not isinstance(adapter_ids, Sequence) or isinstance(adapter_ids, str):
        raise ValueError(
            "`adapter_ids` has the name of an adapter for each sample, such as `['a', 'b', None]`. "
            f"Received: adapter_ids={adapter_ids!r}"
        )
    ids = list(adapter_ids)
    if len(ids) != count or not count:
        raise ValueError(
            f"Each sample needs one adapter: there are {count} samples. Received: {len(ids)} "
            "adapter_ids"
        )
    for name in set(ids) - {None}:
        require_adapter(model, name)
    require_values(model, "a mixed batch")
    return ids


@contextmanager
def _mixed(
    model: keras.Model, ids: list[str | None], size: int, inputs: Any
) -> Iterator[AdapterIds]:
    """Context manager: each sample of a batch has the adapter that is chosen for it."""
    names = tuple(sorted(set(ids), key=lambda name: name or ""))
    chosen = _holder(model, names, size)
    ways, carrier = [], None
    for site in adapted_sites(model):
        groups = groups_of(adapters_of(site.layer), names)
        mixture = PerSampleAdapters(chosen, groups, _maps(site))
        ways.append(site.layer.mixed(mixture) if groups else site.layer.base())
        carrier = carrier or (site.layer if groups else None)
    with with_temporary_functions(model, ways):
        if carrier is not None:
            attach_child(carrier, CHILD, chosen)
        try:
            if not chosen.is_checked:
                _probe(model, chosen, inputs)
            yield chosen
        finally:
            if carrier is not None:
                detach_child(carrier, CHILD)


def _maps(site: Site) -> bool:
    if holds_integers(site.owner):
        return False
    return keras.backend.backend() != "torch" or site.host.has_row_inputs or site.host.is_lookup


def _probe(model: keras.Model, chosen: AdapterIds, inputs: Any) -> None:
    """Raise an error if an adapted layer is called without the batch in front.

    The rows of such a layer are not samples. A prime number of samples reveals this.
    """
    try:
        for rows in PRIMES:
            chosen.probe_rows = rows
            specs = keras.tree.map_structure(lambda x: _of_rows(x, rows), inputs)  # noqa: B023
            trace_shapes(lambda x: model(x, training=False), specs)
    except PerSampleError:
        raise
    except Exception:  # a model that cannot be traced is not checked
        pass
    finally:
        chosen.probe_rows = None
    chosen.is_checked = True


def _holder(model: keras.Model, names: Names, size: int) -> AdapterIds:
    """Return the `AdapterIds` that graphs traced for these names and this size read."""
    holders = _HOLDERS.setdefault(model, OrderedDict())
    if (names, size) not in holders:
        holders[names, size] = AdapterIds(names, size)
    holders.move_to_end((names, size))
    if len(holders) > KEPT:
        holders.popitem(last=False)
    return holders[names, size]
