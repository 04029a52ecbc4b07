"""Which rows of an input are no padding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_svd_adapters.runtime.host_values import to_float_array
from keras_svd_adapters.runtime.keras_private.tracing import mask_of

NAMES = ("padding_mask", "attention_mask")  # of inputs, or the ends of their names


class RowMasks:
    """The masks of one batch: those of its inputs, and that of the layer that is called.

    A mask of Keras on the input of a layer counts first. Otherwise, a mask among the inputs of the
    model counts for every layer with one row for each of its entries.

    Args:
        inputs: The inputs of the model.
    """

    def __init__(self, inputs: Any):
        named = inputs.items() if isinstance(inputs, Mapping) else ()
        self._of_model = [_flat(mask) for name, mask in named if str(name).endswith(NAMES)]
        self._of_layer: np.ndarray | None = None

    def note(self, inputs: Any) -> None:
        """Notice the input of the layer whose rows follow."""
        mask = mask_of(inputs)
        self._of_layer = None if mask is None else _flat(mask)

    def kept(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows that are no padding."""
        masks = self._of_model if self._of_layer is None else [self._of_layer]
        fitting = [mask for mask in masks if len(mask) == len(rows)]
        return rows[np.any(fitting, axis=0)] if fitting else rows


def _flat(mask: Any) -> np.ndarray:
    return to_float_array(mask).astype(bool).ravel()
