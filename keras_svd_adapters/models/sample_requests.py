"""What a caller asks for each sample of a batch: its adapter, or its weights of several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.adapters.own_values import own_values, trained_with
from keras_svd_adapters.adapters.per_sample import Names, groups_of
from keras_svd_adapters.models.named_adapters import require_adapter, require_values
from keras_svd_adapters.models.state.weight_owners import weights_of
from keras_svd_adapters.models.weights_request import check_names, is_weight


@dataclass(frozen=True, eq=False)
class SampleRequests:
    """The adapter of each sample, or its weights.

    Args:
        names: Names of the adapters, `None` for the plain model.
        rows: A row for each sample: an index of names, or a weight for each name.
        are_weights: Whether the rows are weights.
    """

    names: Names
    rows: np.ndarray
    are_weights: bool = False

    def part(self, start: int, stop: int) -> np.ndarray:
        """Return the rows of some consecutive samples."""
        return self.rows[start:stop]

    def group(self, adapters: Mapping[str, Adapter]) -> Any:
        """Return the adapters of a layer that samples may have: names, or groups of adapters."""
        if self.are_weights:
            return tuple(name for name in adapters if name in self.names)
        return groups_of(adapters, self.names)

    def computed(self, rows: np.ndarray, compute: Callable[[np.ndarray], Any]) -> Any:
        """Compute a batch, given a function of the rows of its samples."""
        return compute(rows)

    @contextmanager
    def placed(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Context manager: the adapters of a batch are in place; yield what to compute with."""
        yield rows

    def check_count(self, count: int) -> None:
        """Raise an error if there is no sample, or not one row for each sample."""
        if len(self.rows) != count or not count:
            what = "adapter_weights" if self.are_weights else "adapter_ids"
            each = "weight of each name" if self.are_weights else "adapter"
            raise ValueError(
                f"Each sample needs one {each}: there are {count} samples. "
                f"Received: {len(self.rows)} {what}"
            )


def sample_requests(adapter_ids: Any, adapter_weights: Any, count: int | None) -> SampleRequests:
    """Return what is asked for each sample.

    Args:
        adapter_ids: The name of the adapter of each sample, `None` for the plain model.
        adapter_weights: Or the weights of each adapter by name: one number for each sample, or one
            number for all.
        count: Number of samples, `None` if it is unknown.

    Raises:
        ValueError: If both or none are given, or one is malformed.
    """
    if adapter_weights is None:
        return _ids(adapter_ids)
    if adapter_ids is not None:
        raise ValueError(
            "Give `adapter_ids`, one adapter for each sample, or `adapter_weights`, the weights of "
            f"several, not both. Received: adapter_ids={adapter_ids!r}, adapter_weights="
            f"{adapter_weights!r}"
        )
    return _weights(adapter_weights, count)


def _ids(adapter_ids: Any) -> SampleRequests:
    if isinstance(adapter_ids, np.ndarray):
        adapter_ids = adapter_ids.tolist()
    if not isinstance(adapter_ids, Sequence) or isinstance(adapter_ids, str):
        raise ValueError(
            "`adapter_ids` has the name of an adapter for each sample, such as `['a', 'b', None]`. "
            f"Received: adapter_ids={adapter_ids!r}"
        )
    names = tuple(sorted(set(adapter_ids), key=lambda name: str(name or "")))
    return SampleRequests(names, np.array([names.index(n) for n in adapter_ids], "int32"))


def _weights(given: Any, count: int | None) -> SampleRequests:
    if not isinstance(given, Mapping) or not given:
        raise ValueError(
            "`adapter_weights` has the weights of each adapter, one for each sample or one for "
            "all, such as `{'a': [0.0, 0.4, 1.0], 'b': 1.0}`. "
            f"Received: adapter_weights={given!r}"
        )
    names = sorted(given, key=str)  # another order is the same function
    columns = {name: _column(name, given[name]) for name in names}
    sizes = {len(column) for column in columns.values() if column.ndim}
    size = max(sizes, default=count)
    if size is None or len(sizes) > 1:
        raise ValueError(
            "`adapter_weights` has one weight for each sample in at least one list, and lists of "
            f"one length. Received: lengths {sorted(sizes)}"
        )
    rows = np.stack([np.broadcast_to(column, (size,)) for column in columns.values()], axis=1)
    return SampleRequests(tuple(columns), rows.astype("float32"), are_weights=True)


def _column(name: Any, value: Any) -> np.ndarray:
    """Return the weights of an adapter as an array, of no axis for one number."""
    is_array = keras.ops.is_tensor(value) or isinstance(value, keras.Variable)
    value = keras.ops.convert_to_numpy(value) if is_array else value
    listed = value.tolist() if isinstance(value, np.ndarray) else value
    each = listed if isinstance(listed, list | tuple) else [listed]
    if not all(map(is_weight, each)):
        raise ValueError(
            "The weights of an adapter are finite numbers, one for each sample or one for all. "
            f"Received: {name!r}: {value!r}"
        )
    return np.array(listed, "float32")


def check_requests(model: keras.Model, asked: SampleRequests) -> None:
    """Raise an error if a model cannot do what is asked."""
    if asked.are_weights:
        check_names(model, dict.fromkeys(asked.names))
        _check_values_outside(model, asked.names)
    for name in set(asked.names) - {None}:
        require_adapter(model, name)
    require_values(model, "a mixed batch")


def _check_values_outside(model: keras.Model, names: Names) -> None:
    """Raise an error if a weight has other values for one of these adapters than it holds."""
    for weight in weights_of([model]):
        owners = [name for name in own_values(weight) if name in names]
        if owners not in ([], [trained_with(weight)]):
            raise ValueError(
                "A weight has the values of one adapter at a time, and weights of adapters add up "
                "kernels alone: activate the adapter whose values the weight should have, and "
                f"leave out the others that train it. Received: {owners}, which train "
                f"`{weight.path}`"
            )
