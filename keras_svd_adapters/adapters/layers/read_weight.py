"""A weight that its layer reads, wrapped so that it can carry adapters."""

from __future__ import annotations

import weakref
from contextlib import AbstractContextManager
from functools import cache, partial
from typing import Any, ClassVar

import keras

from keras_svd_adapters.adapters.adapted_layer import AdaptedLayer
from keras_svd_adapters.adapters.class_mixing import add_mixin, remove_mixin
from keras_svd_adapters.adapters.layers.registry import kernel_axes
from keras_svd_adapters.adapters.layers.vectors import VECTORS, vector_axes
from keras_svd_adapters.adapters.mode import current_mode, with_own_kernels
from keras_svd_adapters.kernels.matrix_view import KernelView
from keras_svd_adapters.kernels.quantized import float_policy
from keras_svd_adapters.runtime.keras_private.layers import attach_child, detach_child


class ReadKernel(keras.layers.Layer):
    """Layer that represents one weight of another layer, its child while the weight has adapters.

    It owns no weight and is never called. While an adapter is active, the other layer reads the
    effective kernel from the attribute that holds the weight.

    Args:
        holder: The layer that reads the weight.
        attribute: Name by which the weight is known.
        names: Attributes in which the layer stores the weight. `attribute` may be a property
            that returns one of these.
        axes: As in `register_kernels`; only `n` for a vector, which is a kernel of one row.
    """

    def __init__(
        self, holder: keras.layers.Layer, attribute: str, names: tuple[str, ...], axes: str
    ):
        super().__init__(name=attribute.strip("_"), dtype=float_policy(holder))
        self.attribute = attribute
        self.names = names
        self.axes = axes
        self._holder = weakref.ref(holder)
        self.built = True

    @property
    def is_vector(self) -> bool:
        """Whether the weight is a bias or a vector of a normalization."""
        return "m" not in self.axes

    def holder(self) -> keras.layers.Layer:
        """Return the layer that reads the weight; saving would follow an attribute."""
        holder = self._holder()
        assert holder is not None
        return holder

    @property
    def kernel(self) -> keras.Variable:
        """The weight itself, without adapters."""
        return vars(self.holder())[self.names[0]]


_seen: weakref.WeakKeyDictionary[Any, dict[str, ReadKernel]] = weakref.WeakKeyDictionary()


class AdaptedReadKernel(AdaptedLayer):
    """Mixin for a `ReadKernel` with adapters."""

    adapts: ClassVar[tuple[type, ...]] = (ReadKernel,)
    is_called: ClassVar[bool] = False

    @staticmethod
    def view(layer: keras.layers.Layer) -> KernelView:
        return KernelView.from_axes(layer.axes, tuple(layer.kernel.shape))

    @staticmethod
    def exclusion_reason(layer: keras.layers.Layer) -> str | None:
        if len(layer.axes) != len(layer.kernel.shape):
            return f"it was registered with the axes {layer.axes!r} for {layer.kernel.shape}"
        if layer.kernel.constraint is not None:
            return "its kernel has a constraint, which an adapter would not obey"
        return None

    @staticmethod
    def on_first_adapter(layer: keras.layers.Layer) -> None:
        holder = layer.holder()
        reads = {name: place(k.attribute) for k in _weights_read(holder) for name in k.names}
        attach_child(holder, place(layer.attribute), layer)
        if not isinstance(holder, ReadsAdapted):
            add_mixin(holder, _reading(tuple(reads.items())))

    @staticmethod
    def on_last_adapter_removed(layer: keras.layers.Layer) -> None:
        holder = layer.holder()
        detach_child(holder, place(layer.attribute))
        if not any(hasattr(holder, other) for other in holder.reads.values()):
            remove_mixin(holder, ReadsAdapted)


class ReadsAdapted:
    """Mixin for a layer that reads kernels with adapters.

    Class attribute `reads`: maps each attribute that holds a kernel to that of its `ReadKernel`.
    """

    reads: ClassVar[dict[str, str]] = {}

    def __dir__(self) -> list[str]:
        # Saving reads every attribute; computing effective kernels for that would be slow.
        return [name for name in super().__dir__() if name not in self.reads]

    def save_own_variables(self, store: Any) -> None:
        with _own_weights(self):
            super().save_own_variables(store)  # type: ignore[misc]

    def load_own_variables(self, store: Any) -> None:
        with _own_weights(self):
            super().load_own_variables(store)  # type: ignore[misc]


def _own_weights(holder: Any) -> AbstractContextManager[None]:
    """Context manager: a layer reads its weights without adapters, in this thread."""
    return with_own_kernels(frozenset(map(id, attached_kernels(holder))))


@cache
def _reading(reads: tuple[tuple[str, str], ...]) -> type:
    """Create a `ReadsAdapted` for these attributes."""
    found = {
        name: property(partial(_read, name=name, place=place), partial(_write, name))
        for name, place in reads
    }
    return type("ReadsAdapted", (ReadsAdapted,), {**found, "reads": dict(reads)})


def _read(holder: Any, name: str, place: str) -> Any:
    if name not in vars(holder):  # TensorFlow reads the attribute before it is set
        raise AttributeError(f"{type(holder).__name__} has no attribute {name!r}")
    base = vars(holder)[name]
    kernel = getattr(holder, place, None)
    if kernel is None:
        return base
    held = current_mode().held
    return held[id(kernel)] if id(kernel) in held else kernel.effective_kernel(base)


def _write(name: str, holder: Any, value: Any) -> None:
    vars(holder)[name] = value


def place(attribute: str) -> str:
    """Return the attribute in which a layer has the `ReadKernel` of one of its weights."""
    return f"kernel_of_{attribute}"


def attached_kernels(layer: Any) -> list[ReadKernel]:
    """Return the `ReadKernel` of each weight of a layer that has adapters."""
    places = dict.fromkeys(layer.reads.values()) if isinstance(layer, ReadsAdapted) else {}
    return [getattr(layer, name) for name in places if hasattr(layer, name)]


def kernels_read(layer: keras.layers.Layer) -> list[ReadKernel]:
    """Return the kernels that a built layer reads."""
    return _read_by(layer, kernel_axes(layer) if layer.built else {})


def vectors_read(layer: keras.layers.Layer, kind: str) -> list[ReadKernel]:
    """Return the vectors of a kind, `"biases"` or `"norms"`, that a built layer reads."""
    return _read_by(layer, vector_axes(layer, kind) if layer.built else {})


def _weights_read(layer: keras.layers.Layer) -> list[ReadKernel]:
    return kernels_read(layer) + [each for kind in VECTORS for each in vectors_read(layer, kind)]


def _read_by(layer: keras.layers.Layer, axes: dict[str, str]) -> list[ReadKernel]:
    found: dict[int, ReadKernel] = {}
    for attribute in axes:
        for kernel in _read_as(layer, attribute, axes):
            found.setdefault(id(kernel.kernel), kernel)
    return list(found.values())


def _read_as(layer: Any, attribute: str, axes: dict[str, str]) -> list[ReadKernel]:
    """Return the kernel in an attribute, the same object each time; none for a `None` weight."""
    reads = layer.reads if isinstance(layer, ReadsAdapted) else {}
    attached = getattr(layer, reads.get(attribute, place(attribute)), None)
    if attached is not None:
        return [attached]
    weight = getattr(layer, attribute, ...)
    if weight is None:
        return []
    names = tuple(name for name, value in vars(layer).items() if value is weight)
    if not isinstance(weight, keras.Variable) or not names:
        raise ValueError(
            f"`register_kernels` named `{attribute}`, which is not a weight of this layer; its "
            f"weights are {', '.join(repr(w.name) for w in layer.weights)}. Received: {layer!r}"
        )
    known = _seen.setdefault(layer, {})
    if attribute not in known or known[attribute].kernel is not weight:
        known[attribute] = ReadKernel(layer, attribute, names, axes[attribute])
    return [known[attribute]]
