"""Embedding and ReversibleEmbedding with adapters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import keras
from keras import ops

from keras_svd_adapters.adapters.adapted_layer import AdaptedLayer
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.layer_kinds import base_kernel_variable
from keras_svd_adapters.adapters.operation import Operation, count_tokens
from keras_svd_adapters.adapters.per_sample import Adapt
from keras_svd_adapters.kernels.matrix_view import KernelView


class AdaptedEmbedding(AdaptedLayer):
    """Mixin for layers that look up rows of their table; `x` in the formulas is the indices."""

    adapts: ClassVar[tuple[type, ...]] = (
        keras.layers.Embedding,
        *filter(None, [getattr(keras.layers, "ReversibleEmbedding", None)]),  # since Keras 3.12
    )
    kernel_name: ClassVar[str] = "embeddings"
    is_lookup: ClassVar[bool] = True

    @staticmethod
    def view(layer: keras.layers.Layer) -> KernelView:
        return KernelView.from_dense(tuple(base_kernel_variable(layer).shape))

    @staticmethod
    def exclusion_reason(layer: keras.layers.Layer) -> str | None:
        if layer.embeddings_constraint is not None:
            return "its table has a constraint, which an adapter would not obey"
        if hasattr(layer, "tie_weights") and layer.mask_zero:
            return "it makes a mask of its own (mask_zero=True)"
        return None

    @staticmethod
    def tied_reason(layer: keras.layers.Layer) -> str | None:
        if getattr(layer, "tie_weights", False):
            return (
                "its table also makes the logits (tie_weights=True), which would change as well; "
                "`tied=True` adapts it for both"
            )
        return None

    @property
    def own_kernel(self) -> keras.Variable:
        return super().embeddings  # type: ignore[misc]

    @property
    def embeddings(self) -> Any:
        """The effective table."""
        return self.effective_kernel(super().embeddings)  # type: ignore[misc]

    def call(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        reverse = bool(args and args[0]) or kwargs.get("reverse", False)
        if reverse and self.tied_reason(self):  # type: ignore[arg-type]
            return super().call(inputs, *args, **kwargs)  # type: ignore[misc]
        if self.is_inactive or reverse:
            with self.base_only():
                return super().call(inputs, *args, **kwargs)  # type: ignore[misc]
        return self.adapted(ops.cast(inputs, "int32"), self._adapted, False)

    def _adapted(self, inputs: Any, adapt: Adapt) -> Any:
        view = self.kernel_view
        operation = Operation(
            self._rows,
            self._look_up,
            (view.m, view.n),
            count_tokens(inputs.shape),
            self.base_matrix,
        )
        return adapt(inputs, operation)

    def _rows(self, indices: Any, delta: Any = None) -> Any:
        """Look up rows of the table by the layer's own operation."""
        with self.base_only():
            return self._of_table(super().call, indices)  # type: ignore[misc]

    def _look_up(self, indices: Any, matrix: Any) -> Any:
        return self._of_table(lambda known: ops.take(matrix, known, axis=0), indices)

    def _of_table(self, look_up: Callable[[Any], Any], indices: Any) -> Any:
        """Look up rows. If an adapter has a prompt, ids beyond the table have rows of zeros."""
        if all(adapter.method.prompt is None for adapter in adapters_of(self).values()):  # type: ignore[arg-type]
            return look_up(indices)
        last = self.kernel_view.m - 1
        rows = look_up(ops.minimum(indices, last))
        return ops.where((indices <= last)[..., None], rows, ops.zeros_like(rows))
