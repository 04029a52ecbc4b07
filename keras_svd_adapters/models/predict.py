"""Predict and generate with one adapter per sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.adapters.mode import in_mode
from keras_svd_adapters.models.batches import array_batches, dataset_batches, is_dataset
from keras_svd_adapters.models.named_adapters import require_adapter, require_values
from keras_svd_adapters.models.per_sample_model import per_sample_model
from keras_svd_adapters.models.state.locked_model import running


def predict(
    model: keras.Model,
    x: Any,
    adapter_ids: Sequence[str | None],
    batch_size: int = 32,
    verbose: int | str = 0,
    steps: int | None = None,
    callbacks: Any = None,
) -> Any:
    """Predict as `model.predict(x)`, with one adapter per sample.

    A batch may hold samples of many adapters; the base model runs once per batch.
    Several threads may predict at the same time. If several adapters train a weight,
    such as a head, each sample has the values of its adapter; otherwise, all samples
    have those of the model.

    Args:
        model: A model with adapters.
        x: A NumPy array or tensor, or a list or dictionary of these. Or a dataset
            of batches: a `tf.data.Dataset`, a `keras.utils.PyDataset`, a PyTorch
            `DataLoader` or any other iterable.
        adapter_ids: For each sample, the name of its adapter, or `None` for the
            plain model.
        batch_size: Number of samples per batch, unless `x` is a dataset.
        verbose: As in `model.predict`: 0 for silence, 1 for a progress bar.
        steps: Number of batches after which to stop; `None` for all.
        callbacks: As in `model.predict`.

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
    if type(batch_size) is not int or batch_size < 1:
        raise ValueError(f"`batch_size` is a positive integer. Received: {batch_size!r}")
    ids = _listed(adapter_ids)
    if is_dataset(x):
        batches, total = dataset_batches(x)
    else:
        batches, total, count = array_batches(x, batch_size)
        _check_count(ids, count)
    with running(model, alone=True):
        _check_names(model, ids)
        mixed = None
        calls = keras.callbacks.CallbackList(
            callbacks,
            add_progbar=verbose != 0,
            model=model,
            verbose=verbose,
            epochs=1,
            steps=steps or total,
        )
        model.stop_predicting = False
        calls.on_predict_begin()
        found: list[Any] = []
        done = 0
        for step, (batch, rows) in enumerate(batches):
            if step == steps or model.stop_predicting:
                break
            own = ids[done : done + rows]
            done += rows
            if len(own) < rows:
                _check_count(ids, done)
            if hasattr(model, "preprocess_samples"):
                batch = model.preprocess_samples(batch)
            mixed = mixed or per_sample_model(model, ids, batch)
            calls.on_predict_batch_begin(step)
            y = mixed.predict_batch(batch, own)
            found.append(keras.tree.map_structure(lambda part: part[:rows], y))  # noqa: B023
            calls.on_predict_batch_end(step, {"outputs": found[-1]})
        else:
            _check_count(ids, done)
        calls.on_predict_end()
    return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *found)


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
    ids = _listed(adapter_ids)
    _check_count(ids, count)
    with running(model):
        _check_names(model, ids)
        mixed = per_sample_model(model, ids, getattr(model, "input", None))
        with in_mode(mixed.mode(keras.ops.convert_to_tensor(mixed.indices(ids)))):
            return model.generate(inputs, **how)


def _listed(adapter_ids: Any) -> list[str | None]:
    if isinstance(adapter_ids, np.ndarray):
        adapter_ids = adapter_ids.tolist()
    if not isinstance(adapter_ids, Sequence) or isinstance(adapter_ids, str):
        raise ValueError(
            "`adapter_ids` has the name of an adapter for each sample, such as `['a', 'b', None]`. "
            f"Received: adapter_ids={adapter_ids!r}"
        )
    return list(adapter_ids)


def _check_count(ids: list[str | None], count: int) -> None:
    if len(ids) != count or not count:
        raise ValueError(
            f"Each sample needs one adapter: there are {count} samples. Received: {len(ids)} "
            "adapter_ids"
        )


def _check_names(model: keras.Model, ids: list[str | None]) -> None:
    for name in set(ids) - {None}:
        require_adapter(model, name)
    require_values(model, "a mixed batch")
