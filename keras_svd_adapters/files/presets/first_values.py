"""First values of variables that were created from shapes alone."""

from __future__ import annotations

from typing import Any

import keras

from keras_svd_adapters.kernels.quantized import mode_of
from keras_svd_adapters.runtime.keras_private.variables import initialize, stored_value


def give_first_value(variable: keras.Variable, value: Any = None) -> None:
    """Give a variable of `shapes_only` its first value, by default that of its initializer."""
    if stored_value(variable) is not None:
        return
    if value is None:
        initialize(variable)
        return
    if tuple(value.shape) != tuple(variable.shape):
        raise ValueError(
            f"The file has another shape for {variable.path} than {tuple(variable.shape)}: it "
            f"belongs to another model. Received: {tuple(value.shape)}"
        )
    if keras.backend.backend() == "jax" and keras.distribution.distribution() is not None:
        value = _spread(variable, value.astype(variable.dtype))
    else:
        value = keras.ops.convert_to_tensor(value, dtype=variable.dtype)
    initialize(variable, value)


def _spread(variable: keras.Variable, value: Any) -> Any:
    """Copy from the host to each device the part that it holds, and nothing to other hosts."""
    import jax

    layout = keras.distribution.distribution().get_variable_layout(variable)
    layout = getattr(layout, "backend_layout", layout)
    return jax.make_array_from_callback(value.shape, layout, lambda part: value[part])


PLAIN = {
    keras.layers.Layer.load_own_variables,
    keras.layers.Dense.load_own_variables,
    keras.layers.EinsumDense.load_own_variables,
    keras.layers.Embedding.load_own_variables,
    keras.layers.Conv2D.load_own_variables,
}


def loads_plainly(layer: keras.layers.Layer) -> bool:
    """Return whether a layer loads its weights one by one in their order, as Keras layers do."""
    return type(layer).load_own_variables in PLAIN and mode_of(layer) is None
