"""The batches of data that pass a model once."""

from __future__ import annotations

from collections.abc import Iterator
from operator import length_hint
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_svd_adapters.models.batches import (
    Batch,
    check_samples,
    is_dataset,
    on_host,
    with_texts_as_lists,
    without_lists,
)

BATCH_SIZE = 32
ENDLESS = -1  # as `tf.data` counts


def data_batches(data: Any, argument: str) -> tuple[Iterator[Batch], int]:
    """Return the batches of some data, and their number; 0 if it is unknown.

    Args:
        data: A dataset of batches, inputs, or a tuple of inputs, targets and weights.
        argument: The name of the argument that holds them, for errors.

    Raises:
        ValueError: If the data has no sample, or no end.
    """
    if is_dataset(data):
        return _of_dataset(data, argument)
    parts = data if isinstance(data, tuple) else (data,)
    if not 1 <= len(parts) <= 3:
        raise ValueError(
            f"`{argument}` is inputs, a dataset of batches, or a tuple `(x, y)` or "
            f"`(x, y, sample_weight)`. Received: a tuple of {len(parts)}"
        )
    arrays = on_host(tuple(without_lists(part) for part in parts))
    count = check_samples(arrays)
    slices = [slice(start, start + BATCH_SIZE) for start in range(0, count, BATCH_SIZE)]
    return (_sliced(arrays, each) for each in slices), len(slices)


def _sliced(arrays: Batch, rows: slice) -> Batch:
    return keras.tree.map_structure(lambda array: None if array is None else array[rows], arrays)


def _of_dataset(data: Any, argument: str) -> tuple[Iterator[Batch], int]:
    is_py = isinstance(data, keras.utils.PyDataset)
    count = data.num_batches if is_py else length_hint(data)
    cardinality = getattr(data, "cardinality", None)
    if count is None or (callable(cardinality) and int(cardinality()) == ENDLESS):
        raise ValueError(
            "The data has no end, and all of it is read: take some batches, as in "
            f"`dataset.take(8)`. Received: {argument}={data!r}"
        )
    listed = (data[number] for number in range(count)) if is_py else iter(data)
    return (on_host(batch) for batch in listed), count


def as_tensors(model: keras.layers.Layer, batch: Batch) -> Batch:
    """Return a batch as the model reads it, after the preprocessor of a KerasHub task."""
    if hasattr(model, "preprocess_samples"):
        batch = on_host(model.preprocess_samples(*with_texts_as_lists(batch)))
    return keras.tree.map_structure(_tensor, batch)


def _tensor(value: Any) -> Any:
    is_numbers = isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
    return ops.convert_to_tensor(value) if is_numbers else value


def samples_of(batch: Batch) -> Iterator[Batch]:
    """Yield each sample of a batch of tensors, as a batch of its own."""
    for row in range(len(keras.tree.flatten(batch[0])[0])):
        yield _sliced(batch, slice(row, row + 1))
