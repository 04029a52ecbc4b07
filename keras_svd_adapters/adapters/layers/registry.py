"""Layers that read kernels as weights instead of calling a Dense: experts, cells, yours."""

from __future__ import annotations

import re

import keras

from keras_svd_adapters.adapters.layer_kinds import adapted_class_for
from keras_svd_adapters.runtime.keras_private.layers import direct_weights

EXPERTS = re.compile("[Ee]xpert|MoE|Moe")
CELLS = {
    cell: {"kernel": "mn", "recurrent_kernel": "mn"}
    for cell in (keras.layers.LSTMCell, keras.layers.GRUCell, keras.layers.SimpleRNNCell)
}
SLIDING = {
    keras.layers.SeparableConv1D: {"pointwise_kernel": "mmn"},
    keras.layers.SeparableConv2D: {"pointwise_kernel": "mmmn"},
    keras.layers.Conv1DTranspose: {"kernel": "nnm"},
    keras.layers.Conv2DTranspose: {"kernel": "nnnm"},
    keras.layers.Conv3DTranspose: {"kernel": "nnnnm"},
}
_registered: dict[type, dict[str, str]] = {**CELLS, **SLIDING}


def register_kernels(cls: type[keras.layers.Layer], **axes: str) -> None:
    """Register weights of a layer class as kernels that can be adapted.

    Use it for layers that read their weights, as in `ops.einsum("...m,mn->...n", x, self.w)`.
    While an adapter is active, `self.w` is the effective kernel, a tensor that each read computes
    again. A method's dropout acts on the input, so dropout has no effect there. Dense, EinsumDense,
    convolutions (except depthwise ones), embeddings, recurrent cells and KerasHub's experts are
    known already.

    Args:
        cls: The class of the layer; its subclasses are included.
        **axes: For each attribute that holds a weight, one letter per axis of the
            weight: `m` for an axis that is summed over with the input, `n` for an
            axis that reaches the output, `s` for an axis along which kernels are
            stacked. Each kernel of a stack gets its own decomposition. A
            `(in, out)` kernel is `"mn"`, experts of shape `(experts, in, out)` are
            `"smn"`, heads of shape `(heads, in, size)` are `"nmn"`.

    Raises:
        ValueError: If the class is registered or known already, or `axes` are
            not such letters.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> class Gate(keras.layers.Layer):
    ...     def build(self, shape):
    ...         self.w = self.add_weight(shape=(shape[-1], 4), name="w")
    ...     def call(self, x):
    ...         return x * keras.ops.sigmoid(keras.ops.matmul(x, self.w))
    >>> ksa.register_kernels(Gate, w="mn")
    >>> model = keras.Sequential([keras.Input((4,)), Gate()])
    >>> ksa.enable(model, ksa.SVF(), targets="w").trainable_parameters
    4
    """
    received = f"Received: {cls!r}, {axes}"
    if not isinstance(cls, type) or not issubclass(cls, keras.layers.Layer):
        raise ValueError(f"Kernels are registered for a class of Keras layers. {received}")
    if issubclass(cls, keras.Model):
        raise ValueError(f"Register the layers of a model instead of the model. {received}")
    kind = adapted_class_for(cls)
    if kind is not None and kind.has_kernel:
        raise ValueError(f"Layers of this class are adapted without being registered. {received}")
    if cls in _registered:
        raise ValueError(
            f"This class is already registered, with {_registered[cls]}; a class is registered "
            f"once. {received}"
        )
    if not axes or not all(
        isinstance(a, str) and {*"mn"} <= {*a} <= {*"mns"} for a in axes.values()
    ):
        raise ValueError(
            "Name each weight with a letter per axis, `m` (summed over), `n` (in the output) or "
            f"`s` (stacked), as in `register_kernels(MyLayer, w='mn')`. {received}"
        )
    _registered[cls] = axes


def kernel_axes(layer: keras.layers.Layer) -> dict[str, str]:
    """Return the attributes of a layer that hold kernels it reads, with their axes."""
    family = type(layer).__mro__
    for cls in family:
        if cls in _registered:
            return _registered[cls]
    named = any(EXPERTS.search(cls.__name__) for cls in family)
    return _experts(layer) if named and not isinstance(layer, keras.Model) else {}


def slides(layer: keras.layers.Layer) -> bool:
    """Whether a layer slides its kernels over an image, as convolutions do."""
    return isinstance(layer, tuple(SLIDING))


def _experts(layer: keras.layers.Layer) -> dict[str, str]:
    """Return the `(experts, m, n)` weights of a layer, as in KerasHub's mixtures of experts."""
    weights = [w for w in direct_weights(layer) if len(w.shape) == 3 and min(w.shape[1:]) > 1]
    stacks = {id(w): w.shape[0] for w in weights}
    if len(stacks) < 2 or len(set(stacks.values())) > 1:
        return {}
    return {name: "smn" for name, value in vars(layer).items() if id(value) in stacks}
