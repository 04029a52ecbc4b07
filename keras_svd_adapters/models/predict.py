"""Predict and generate with one adapter per sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.adapters.mode import in_mode
from keras_svd_adapters.models.batches import array_batches, dataset_batches, is_dataset
from keras_svd_adapters.models.per_sample_model import per_sample_model
from keras_svd_adapters.models.pool.requests import requests_for
from keras_svd_adapters.models.pool.slot_pool import pool_of
from keras_svd_adapters.models.sample_requests import sample_requests
from keras_svd_adapters.models.state.locked_model import running


def predict(
    model: keras.Model,
    x: Any,
    adapter_ids: Sequence[str | None] | None = None,
    batch_size: int = 32,
    verbose: int | str = 0,
    steps: int | None = None,
    callbacks: Any = None,
    adapter_weights: Mapping[str, Any] | None = None,
) -> Any:
    """Predict as `model.predict(x)`, with one adapter, or other weights, per sample.

    A batch may hold samples of many adapters; the base model runs once per batch.
    Several threads may predict at the same time. If several adapters train a weight,
    such as a head, each sample has the values of its adapter; otherwise, all samples
    have those of the model.

    Args:
        model: A model with adapters, or with an `AdapterPool`.
        x: A NumPy array or tensor, or a list or dictionary of these. Or a dataset
            of batches: a `tf.data.Dataset`, a `keras.utils.PyDataset`, a PyTorch
            `DataLoader` or any other iterable.
        adapter_ids: For each sample, the name of its adapter, or `None` for the
            plain model. All adapters are in the pool of the model, or all are attached
            to the model.
        batch_size: Number of samples per batch, unless `x` is a dataset.
        verbose: As in `model.predict`: 0 for silence, 1 for a progress bar.
        steps: Number of batches after which to stop; `None` for all.
        callbacks: As in `model.predict`.
        adapter_weights: In place of `adapter_ids`, the weights of several adapters, as
            in `set_adapter`: by name, one weight for each sample or one for all, such
            as `{"short": [0.0, 0.4, 1.0], "digits": 1.0}`. Other weights trace nothing
            again.

    Returns:
        The result of `model.predict`: NumPy arrays.

    Raises:
        ValueError: If a name is unknown, the numbers of samples differ, or an
            adapted layer cannot distinguish samples. Also if `adapter_weights` names
            adapters that train the same weight of the model.

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
    if is_dataset(x):
        batches, total = dataset_batches(x)
        asked = sample_requests(adapter_ids, adapter_weights, None)
    else:
        batches, total, count = array_batches(x, batch_size)
        asked = sample_requests(adapter_ids, adapter_weights, count)
        asked.check_count(count)
    with running(model, alone=True):
        asked = requests_for(model, asked)
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
            own = asked.part(done, done + rows)
            done += rows
            if len(own) < rows:
                asked.check_count(done)
            if hasattr(model, "preprocess_samples"):
                batch = model.preprocess_samples(batch)
            mixed = mixed or per_sample_model(model, asked, batch)
            calls.on_predict_batch_begin(step)
            y = asked.computed(own, partial(mixed.predict_batch, batch))
            found.append(keras.tree.map_structure(lambda part: part[:rows], y))  # noqa: B023
            calls.on_predict_batch_end(step, {"outputs": found[-1]})
        else:
            asked.check_count(done)
        calls.on_predict_end()
    return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *found)


def generate(
    model: keras.Model,
    inputs: Any,
    adapter_ids: Any = None,
    adapter_weights: Mapping[str, Any] | None = None,
    **how: Any,
) -> Any:
    """Generate as `model.generate(inputs)` of a KerasHub task, with one adapter per prompt.

    Args:
        model: A KerasHub task with adapters.
        inputs: A prompt, a list of prompts, or the output of the task's
            preprocessor for these.
        adapter_ids: For each prompt, the name of its adapter, or `None` for the
            plain model.
        adapter_weights: In place of `adapter_ids`, weights of several adapters for
            each prompt, as in `predict`.
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
        if adapter_weights is None and isinstance(adapter_ids, str | None):
            adapter_ids = [adapter_ids]
        count = 1
    else:
        count = len(inputs if isinstance(inputs, list | tuple) else keras.tree.flatten(inputs)[0])
    asked = sample_requests(adapter_ids, adapter_weights, count)
    asked.check_count(count)
    with ExitStack() as stack:
        with running(model, alone=pool_of(model) is not None):  # slots may change
            asked = requests_for(model, asked)
            mixed = per_sample_model(model, asked, getattr(model, "input", None))
            rows = stack.enter_context(asked.placed(asked.rows))
            stack.enter_context(running(model))
        with in_mode(mixed.mode(keras.ops.convert_to_tensor(rows))):
            return model.generate(inputs, **how)
