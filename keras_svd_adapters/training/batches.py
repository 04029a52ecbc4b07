"""The batches of a few training steps: drawn from arrays, or the first of a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, cycle, islice
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.models.batches import (
    Batch,
    check_samples,
    is_dataset,
    on_host,
    without_lists,
)


def training_batches(
    x: Any, y: Any, sample_weight: Any, batch_size: int, steps: int
) -> list[Batch]:
    """Return the batches of some steps, on the host.

    Arrays are shuffled, with a seed of their own, and read again as often as needed. Of a dataset,
    the first batches are read once and then repeated.

    Raises:
        ValueError: If there is no batch, arrays have different numbers of samples, or a dataset
            comes with targets of its own.
    """
    if not is_dataset(x):
        drawn = _from_arrays((x, y, sample_weight), batch_size)
        return list(islice(drawn, steps))
    if y is not None or sample_weight is not None:
        raise ValueError(
            "A dataset yields targets and weights of samples itself: leave out `y` and "
            f"`sample_weight`. Received: x={x!r}, y={type(y)}, sample_weight={type(sample_weight)}"
        )
    batches = [on_host(batch) for batch in islice(_from_dataset(x), steps)]
    if not batches:
        raise ValueError(
            "The data has no batch. A generator that was read before is empty: make a new one. "
            f"Received: x={x!r}"
        )
    return list(islice(cycle(batches), steps))


def _from_arrays(data: Batch, batch_size: int) -> Iterator[Batch]:
    arrays = on_host(tuple(map(without_lists, data)))
    samples, rng = check_samples(arrays), np.random.default_rng(0)
    size = min(batch_size, samples)
    while True:
        order = rng.permutation(samples)
        for start in range(0, samples - size + 1, size):
            rows = order[start : start + size]
            yield keras.tree.map_structure(
                lambda array: None if array is None else array[rows],  # noqa: B023
                arrays,
            )


def _from_dataset(x: Any) -> Iterator[Any]:
    if not isinstance(x, keras.utils.PyDataset):
        return iter(x)
    numbers: Any = count()
    if x.num_batches is not None:  # `fit` shuffles these batches, too
        numbers = np.random.default_rng(0).permutation(x.num_batches)
    return (x[int(number)] for number in numbers)
