"""Dense and EinsumDense that store their kernel as NF4."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_svd_adapters.adapters.refusals import refuse_keras_lora
from keras_svd_adapters.kernels.axes import as_rows, leading_shape
from keras_svd_adapters.kernels.matrix_view import KernelView
from keras_svd_adapters.kernels.nf4 import dequantize
from keras_svd_adapters.kernels.quantized import stored_weights


class NF4Layer:
    """Mixin for a layer whose kernel is in codes and scales; each call makes floats of them.

    Keras knows no such storage: the dtype policy of the layer remains that of floats.
    """

    @property
    def kernel(self) -> Any:
        """The kernel as floats, in the compute dtype, for code that reads it."""
        return self.dequantized(self.compute_dtype)  # type: ignore[attr-defined]

    def dequantized(self, dtype: str) -> Any:
        """Return the kernel as floats."""
        view: KernelView = self.kernel_storage.view  # type: ignore[attr-defined]
        stored = {k: ops.convert_to_tensor(v) for k, v in stored_weights(self).items()}
        return view.from_matrix(ops.transpose(dequantize(stored, (view.n, view.m), dtype)))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.quantized_call(inputs, training)

    def quantized_call(self, inputs: Any, training: bool | None = None) -> Any:
        y = multiply(self, inputs)
        if self.bias is not None:  # type: ignore[attr-defined]
            y = ops.add(y, self.bias)  # type: ignore[attr-defined]
        return y if self.activation is None else self.activation(y)  # type: ignore[attr-defined]

    def save_own_variables(self, store: Any) -> None:
        for name, weight in self._weights_in_files().items():
            store[name] = weight

    def load_own_variables(self, store: Any) -> None:
        weights = self._weights_in_files()
        if set(store.keys()) != weights.keys():
            raise ValueError(
                "The file was not written by a layer with the same NF4 storage: load it into the "
                "model as it was saved, then call `quantize(model, 'nf4')`. Received: "
                f"{sorted(store.keys())} for `{self.path}`, which has {sorted(weights)}"  # type: ignore[attr-defined]
            )
        for name, weight in weights.items():
            weight.assign(store[name])

    def _weights_in_files(self) -> dict[str, Any]:
        bias = {} if self.bias is None else {"bias": self.bias}  # type: ignore[attr-defined]
        return stored_weights(self) | bias

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        raise ValueError(
            "A layer with an NF4 kernel cannot be cloned alone: clone the float model, then call "
            f"`quantize(model, 'nf4')`. Received: layer {config.get('name')!r}"
        )

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        refuse_keras_lora(self.path)  # type: ignore[attr-defined]

    def __dir__(self) -> list[str]:
        # Saving reads every attribute; computing the kernel for that would be slow.
        return [name for name in super().__dir__() if name != "kernel"]


def multiply(layer: Any, x: Any) -> Any:
    """Compute `x K`. The backward pass makes floats of the codes again and stores none."""
    view: KernelView = layer.kernel_storage.view
    weights = stored_weights(layer)

    def floats(stored: Any, dtype: str) -> Any:
        return dequantize(dict(zip(weights, stored)), (view.n, view.m), dtype)

    @ops.custom_gradient
    def product(rows: Any, *stored: Any) -> Any:
        def gradient(*args: Any, upstream: Any = None) -> Any:
            upstream = args[0] if upstream is None else upstream
            return ops.matmul(upstream, floats(stored, upstream.dtype)), *(None for _ in stored)

        return ops.matmul(rows, ops.transpose(floats(stored, rows.dtype))), gradient

    x = view.flatten_input(ops.convert_to_tensor(x))
    leading = leading_shape(x, 1)
    return view.output_from_rows(
        product(as_rows(x), *map(ops.convert_to_tensor, weights.values())), leading
    )
