"""The weights of several adapters whose changes a layer adds up."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
from keras import ops

from keras_svd_adapters.adapters.stored_arrays import StoredArrays

WEIGHTS = "weights_of_adapters"  # the attribute of a layer, and the name in files of weights


class AdapterWeights(StoredArrays):
    """Layer that stores a number for each adapter; a child of each layer that adds these up.

    Args:
        names: Names of the adapters.
        trained: Names of the adapters that train; the others are frozen.
        values: The weight of each adapter. Without them, a file has the weights.
    """

    def __init__(
        self,
        names: Iterable[str],
        trained: Collection[str] = (),
        values: Iterable[float] | None = None,
    ):
        super().__init__(dtype="float32", name=WEIGHTS)
        self.names = tuple(names)
        self.trained = tuple(name for name in self.names if name in trained)
        self.has_values = values is not None
        start = 0.0 if values is None else np.array(list(values), "float32")
        self.add_array("values", (len(self.names),), "float32", start)
        self.built = True

    def array_names(self) -> Iterable[str]:
        return ("values",)

    def assign(self, weights: Mapping[str, float]) -> None:
        """Give each adapter its weight."""
        self.values.assign(np.array([weights[name] for name in self.names], "float32"))

    def of(self, names: Iterable[str]) -> dict[str, Any]:
        """Return the weights of some adapters by name, each a tensor."""
        values = ops.convert_to_tensor(self.values)
        return {name: values[self.names.index(name)] for name in names}

    def on_host(self) -> dict[str, float]:
        """Return the weights as numbers, by name."""
        values = ops.convert_to_numpy(self.values)
        return {name: float(value) for name, value in zip(self.names, values, strict=True)}
