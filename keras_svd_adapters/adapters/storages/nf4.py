"""NF4, the storage of QLoRA, for the kernels of Dense and EinsumDense."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_svd_adapters.adapters.class_mixing import add_mixin_first, remove_mixin
from keras_svd_adapters.adapters.layer_kinds import adapted_class_of
from keras_svd_adapters.adapters.storages.nf4_layer import NF4Layer
from keras_svd_adapters.adapters.storages.storage import Rounded, Storage
from keras_svd_adapters.kernels import nf4
from keras_svd_adapters.kernels.float_kernel import make_float
from keras_svd_adapters.kernels.matrix_view import KernelView
from keras_svd_adapters.kernels.quantized import ADAPTED, kernel_storage_of, mode_of
from keras_svd_adapters.runtime.host_values import initializer_of, to_float_array
from keras_svd_adapters.runtime.keras_private.layers import all_layers, replace_kernel, unlocked


@dataclass(frozen=True)
class NF4Config:
    """Configuration of NF4 kernels, as `config` of `quantize`.

    Args:
        block_size: Number of values with one scale, even. They follow each other along the
            inputs of one output, and go on in the next output if the inputs are no multiple.
        double: Whether the scales are stored in 8 bits (double quantization).

    Raises:
        ValueError: If `block_size` is not a positive even integer.

    Reference:
        - [Dettmers et al., 2023](https://arxiv.org/abs/2305.14314)
    """

    block_size: int = 64
    double: bool = True

    def __post_init__(self) -> None:
        if type(self.block_size) is not int or self.block_size < 2 or self.block_size % 2:
            raise ValueError(
                "`block_size` is a positive even integer, such as 64: a byte holds two values. "
                f"Received: block_size={self.block_size!r}"
            )


@dataclass(frozen=True, eq=False)
class NF4Kernel:
    """How a layer stores its kernel: an attribute `kernel_storage` of the layer.

    Args:
        config: The configuration.
        view: The float kernel as a matrix.
    """

    config: NF4Config
    view: KernelView
    mode: str = "nf4"

    def get_config(self) -> dict[str, Any]:
        """Return the configuration as plain data."""
        return asdict(self.config)


class NF4(Storage):
    """Kernels in 4-bit codes with a scale for each block."""

    def check(self, config: Any) -> None:
        if not isinstance(config, NF4Config | None):
            raise ValueError(
                "NF4 is configured by `NF4Config(block_size=64, double=True)`, or leave `config` "
                f"out. Received: config={config!r}"
            )

    def round(self, layer: keras.layers.Layer, kernel: Any, config: Any = None) -> Rounded:
        view, stored = _view_of(layer), _stored(layer, kernel, config)
        tensors = {name: ops.convert_to_tensor(value) for name, value in stored.items()}
        floats = to_float_array(nf4.dequantize(tensors, (view.n, view.m), "float32"))
        return Rounded(stored, view.from_matrix(np.ascontiguousarray(floats.T)))

    def store(self, target: Any, config: Any = None) -> None:
        layers = [layer for layer in all_layers(target) if is_storable(layer)]
        if not layers:
            raise ValueError(
                "NF4 stores kernels of built Dense and EinsumDense layers, and there is none: use "
                f"'int8' for embeddings, or leave the model as it is. Received: {target!r}"
            )
        for layer, stored in [(each, _stored(each, each.kernel, config)) for each in layers]:
            store_values(layer, stored, config)

    def config_of(self, layer: keras.layers.Layer) -> Any:
        return kernel_storage_of(layer).config

    def grouped(self, size: int) -> Any:
        return NF4Config(block_size=size)

    def make_float(self, layer: keras.layers.Layer, kernel: Any, policy: Any) -> Callable[[], None]:
        stored, was = kernel_storage_of(layer), layer.dtype_policy
        take_back = make_float(layer, kernel, policy)
        layer.dtype_policy = was
        del layer.kernel_storage
        remove_mixin(layer, NF4Layer)

        def restore() -> None:
            add_mixin_first(layer, NF4Layer)
            take_back()
            layer.kernel_storage = stored

        return restore


def _view_of(layer: keras.layers.Layer) -> KernelView:
    kind = adapted_class_of(layer)
    assert kind is not None
    return kind.view(layer)


def _stored(layer: keras.layers.Layer, kernel: Any, config: Any) -> dict[str, np.ndarray]:
    matrix, chosen = _view_of(layer).to_matrix(to_float_array(kernel)), config or NF4Config()
    return nf4.quantize(matrix, chosen.block_size, chosen.double)


def is_storable(layer: keras.layers.Layer) -> bool:
    """Return whether a layer is a plain Dense or EinsumDense whose float kernel is one matrix."""
    if type(layer) not in ADAPTED or not layer.built or mode_of(layer) is not None:
        return False
    try:
        _view_of(layer)
    except ValueError:  # an equation with other axes
        return False
    return not layer.lora_enabled


def store_values(
    layer: Any, stored: dict[str, np.ndarray] | None, config: NF4Config | None = None
) -> None:
    """Replace the float kernel of a layer by the arrays of an NF4 kernel.

    Args:
        layer: A float layer.
        stored: The arrays; `None` for zeros, which a file replaces.
        config: Their configuration.
    """
    config, view = config or NF4Config(), _view_of(layer)
    shapes = nf4.shapes(view.m, view.n, config.block_size, config.double)
    with unlocked(layer):
        weights = {
            name: layer.add_weight(
                name=name,
                shape=shape,
                initializer=initializer_of(0 if stored is None else stored[name]),
                dtype="uint8" if _is_code(name, config) else "float32",
                autocast=False,
                trainable=False,
            )
            for name, shape in shapes.items()
        }
        replace_kernel(layer, weights.pop(nf4.CODES_OF_KERNEL), quantized=False)
        for name, weight in weights.items():
            setattr(layer, name, weight)
        layer.kernel_storage = NF4Kernel(config, view)
    add_mixin_first(layer, NF4Layer)


def _is_code(name: str, config: NF4Config) -> bool:
    return name == nf4.CODES_OF_KERNEL or (name == nf4.SCALE and config.double)
