"""A gradient for the logits of a quantized embedding, which Keras 3.15 rounds away.

A quantized `ReversibleEmbedding` rounds its input before it multiplies the input by its table.
Unlike Dense, it defines no gradient for this, so the layers before it would learn from noise.
While a model carries adapters, the layer multiplies forward as Keras does. Backward, it
multiplies by the table as floats.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_svd_adapters.adapters.class_mixing import add_mixin, remove_mixin
from keras_svd_adapters.kernels.quantized import MODES, copy_without, mode_of
from keras_svd_adapters.runtime.keras_private.layers import all_layers


class QuantizedLogits:
    """Mixin that gives the logits of an integer table the gradient of the float table."""

    def quantized_call(self, inputs: Any, reverse: bool = False) -> Any:
        if not reverse:
            return super().quantized_call(inputs)  # type: ignore[misc]
        plain = super(QuantizedLogits, copy_without(self, "logit_soft_cap")).quantized_call  # type: ignore[misc]
        cap, inputs = self.logit_soft_cap, ops.convert_to_tensor(inputs)  # type: ignore[attr-defined]

        @ops.custom_gradient
        def product(x: Any, table: Any, scale: Any) -> Any:
            def gradient(*args: Any, upstream: Any = None) -> Any:
                upstream = args[0] if upstream is None else upstream
                floats = ops.cast(table, "float32") / ops.reshape(scale, (-1, 1))
                return ops.matmul(upstream, ops.cast(floats, upstream.dtype)), None, None

            return plain(x, reverse=True), gradient

        logits = product(inputs, *self._table())
        return logits if cap is None else ops.tanh(logits / cap) * cap

    def _table(self) -> tuple[Any, Any]:
        """Return the integers, one row per logit, and their scales; Keras groups no such rows."""
        layer: Any = self
        if layer.tie_weights:
            return tuple(map(ops.convert_to_tensor, (layer.embeddings, layer.embeddings_scale)))
        table = ops.transpose(layer.reverse_embeddings)
        if mode_of(layer) == "int4":
            table = keras.quantizers.unpack_int4(table, layer.output_dim, axis=-1)
        return table, ops.convert_to_tensor(layer.reverse_embeddings_scale)


def add_logit_gradient(model: keras.layers.Layer) -> None:
    """Add a gradient to the tables of a model that round their input to compute logits."""
    for layer in all_layers(model):
        rounds = mode_of(layer) in MODES and getattr(layer, "inputs_quantizer", None) is not None
        if rounds and hasattr(layer, "tie_weights") and not isinstance(layer, QuantizedLogits):
            add_mixin(layer, QuantizedLogits)


def remove_logit_gradient(model: keras.layers.Layer) -> None:
    """Undo `add_logit_gradient`."""
    for layer in all_layers(model):
        remove_mixin(layer, QuantizedLogits)
