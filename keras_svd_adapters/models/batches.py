"""The batches of data: slices of arrays, or the batches of a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from operator import length_hint
from typing import Any

import keras
import numpy as np

Batches = Iterator[tuple[Any, int]]
Batch = tuple[Any, Any, Any]  # inputs, targets and weights of the samples


def is_dataset(x: Any) -> bool:
    """Return whether inputs come in batches already."""
    if isinstance(x, list | tuple | dict | str) or hasattr(x, "__array__"):
        return False
    return not keras.ops.is_tensor(x) and (
        hasattr(x, "__iter__") or isinstance(x, keras.utils.PyDataset)
    )


def dataset_batches(x: Any) -> tuple[Batches, int | None]:
    """Return the batches of a dataset, each with its number of samples, and their number."""
    total = length_hint(x) or None  # a dataset may have a length and not know it
    if isinstance(x, keras.utils.PyDataset):
        total = x.num_batches
        numbers = range(total) if total is not None else iter(int, 1)
        listed: Any = (x[number] for number in numbers)
    else:
        listed = x

    def batches() -> Batches:
        for batch in listed:
            inputs, _, _ = unpacked(batch)
            inputs = keras.tree.map_structure(as_array, inputs)
            yield inputs, len(keras.tree.flatten(inputs)[0])

    return batches(), total


def unpacked(batch: Any) -> tuple[Any, Any, Any]:
    """Return inputs, targets and sample weights of a batch; some may be `None`."""
    batch = tuple(batch) if isinstance(batch, list) else batch
    return keras.utils.unpack_x_y_sample_weight(batch)  # type: ignore[no-any-return]


def on_host(batch: Any) -> Batch:
    """Return inputs, targets and weights of a batch as NumPy arrays.

    A tensor without an array, such as a ragged one, stays as it is.
    """
    return tuple(keras.tree.map_structure(_to_host, part) for part in unpacked(batch))  # type: ignore[return-value]


def _to_host(value: Any) -> Any:
    if keras.ops.is_tensor(value) or isinstance(value, keras.Variable):
        return keras.ops.convert_to_numpy(value)
    is_array = hasattr(value, "__array__") or isinstance(value, int | float | str | bytes)
    return np.asarray(value) if is_array else value


def with_texts_as_lists(batch: Batch) -> Batch:
    """Return a batch whose arrays of texts are lists, which preprocessors of KerasHub read."""

    def listed(array: Any) -> Any:
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "OSU":
            return array
        return [text.decode() if isinstance(text, bytes) else text for text in array.tolist()]

    return keras.tree.map_structure(listed, batch)


def check_samples(arrays: Batch) -> int:
    """Return the number of samples of arrays; raise `ValueError` if it differs, or is 0."""
    leaves = [array for array in keras.tree.flatten(arrays) if array is not None]
    sizes = {len(array) if np.ndim(array) else 0 for array in leaves}
    if len(sizes) != 1 or not min(sizes):
        raise ValueError(
            "`x`, `y` and `sample_weight` must be arrays, or lists or dictionaries of arrays, with "
            f"the same number of samples. Received: samples {sorted(sizes)}"
        )
    return min(sizes)


def without_lists(x: Any) -> Any:
    """Turn a list of numbers or strings into an array; a list of arrays is several inputs."""
    if isinstance(x, list | tuple) and not any(map(np.ndim, keras.tree.flatten(x))):
        return np.array(x)
    return x


def array_batches(x: Any, batch_size: int) -> tuple[Batches, int, int]:
    """Return slices of arrays, the number of slices and the number of samples.

    Each slice comes with the number of its samples. The last slice is filled up with copies of the
    last sample, so that all have one shape and one compiled function.

    Raises:
        ValueError: If the arrays have no samples, or different numbers of samples.
    """
    x = keras.tree.map_structure(as_array, without_lists(x))
    sizes = {len(part) if np.ndim(part) else 0 for part in keras.tree.flatten(x)}
    if len(sizes) != 1 or not min(sizes):
        raise ValueError(
            "`x` must be an array, or a list or dictionary of arrays with the same number of "
            f"samples. Received: samples {sorted(sizes)}"
        )
    count = min(sizes)
    size = min(batch_size, count)

    def batches() -> Batches:
        for start in range(0, count, size):
            places = np.minimum(np.arange(start, start + size), count - 1)
            slices = keras.tree.map_structure(lambda part: part[places], x)  # noqa: B023
            yield slices, min(size, count - start)

    return batches(), -(-count // size), count


def as_array(value: Any) -> np.ndarray:
    """Return a tensor, a variable or a list of numbers as a NumPy array."""
    is_tensor = keras.ops.is_tensor(value) or isinstance(value, keras.Variable)
    return keras.ops.convert_to_numpy(value) if is_tensor else np.asarray(value)
