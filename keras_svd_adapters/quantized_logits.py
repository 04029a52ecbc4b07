"""A gradient for the logits of an int8 embedding, which Keras 3.15 rounds away.

`ReversibleEmbedding` of int8 rounds what it multiplies with its table, without a gradient of its
own as Dense has: what lies before it would learn from noise. While a model carries adapters, the
layer multiplies as Keras does, and backward with the table as floats.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_svd_adapters.keras_internals import all_layers, graft, ungraft
from keras_svd_adapters.quantized import mode_of


class LogitsOfIntegers:
    """Mixin that gives the logits of an int8 table the gradient of the float one."""

    def quantized_call(self, inputs: Any, reverse: bool = False) -> Any:
        plain = super().quantized_call  # type: ignore[misc]
        if not reverse:
            return plain(inputs)
        cap, inputs = self.logit_soft_cap, ops.convert_to_tensor(inputs)  # type: ignore[attr-defined]

        @ops.custom_gradient
        def product(x: Any, table: Any, scale: Any) -> Any:
            def gradient(*args: Any, upstream: Any = None) -> Any:
                upstream = args[0] if upstream is None else upstream
                floats = ops.cast(ops.cast(table, "float32") / scale, upstream.dtype)
                return ops.matmul(upstream, floats), None, None

            return plain(x, reverse=True), gradient

        object.__setattr__(self, "logit_soft_cap", None)
        try:
            logits = product(inputs, *self._table())
        finally:
            object.__setattr__(self, "logit_soft_cap", cap)
        return logits if cap is None else ops.tanh(logits / cap) * cap

    def _table(self) -> tuple[Any, Any]:
        """The integers, a row for each logit, and their scales."""
        layer: Any = self
        if layer.tie_weights:
            table, scale = layer.embeddings, layer.embeddings_scale
        else:
            table, scale = map(
                ops.transpose, (layer.reverse_embeddings, layer.reverse_embeddings_scale)
            )
        table, scale = ops.convert_to_tensor(table), ops.convert_to_tensor(scale)
        return table, ops.reshape(ops.cast(scale, "float32"), (-1, 1))


def mend_logits(model: keras.layers.Layer) -> None:
    """Gives the int8 tables of a model that make logits a gradient."""
    for layer in all_layers(model):
        is_int8 = isinstance(layer, keras.layers.ReversibleEmbedding) and mode_of(layer) == "int8"
        if is_int8 and not isinstance(layer, LogitsOfIntegers):
            graft(layer, LogitsOfIntegers)


def leave_logits(model: keras.layers.Layer) -> None:
    """Takes back `mend_logits`."""
    for layer in all_layers(model):
        ungraft(layer, LogitsOfIntegers)
