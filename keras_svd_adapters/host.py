"""What a layer becomes while it carries adapters, whatever its kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, ClassVar

import keras
from keras import ops

from keras_svd_adapters.adapter import Adapter
from keras_svd_adapters.class_mixing import graft, plain_class, ungraft
from keras_svd_adapters.frozen_variables import pin, unpin
from keras_svd_adapters.half_precision import shifted_product, sum_of_known, sum_of_products
from keras_svd_adapters.keras_layers import attach_child, detach_child
from keras_svd_adapters.kernel import KernelView
from keras_svd_adapters.mixture import Compute, Mixture
from keras_svd_adapters.quantized import dequantized, holds_integers, stored_kernel
from keras_svd_adapters.refusals import refuse_keras_lora, refuse_to_mix

PREFIX = "adapter_"
OPEN = 16  # what a size counts that is not known while a function is traced


@dataclass(frozen=True)
class Operation:
    """The frozen operation of a layer, as `methods.method.Base` tells.

    Args:
        run: `x K`, or `x (K + delta)`.
        times: `x A` for any `(m, r)` matrix.
        shape: `(m, n)`.
        tokens: About how many rows the input has.
        matrix: Gives `K` as a matrix, in the compute dtype.
        rounds_once: Whether sums of products with `K` are worth adding up before
            they are rounded.
    """

    run: Callable[..., Any]
    times: Callable[[Any, Any], Any]
    shape: tuple[int, int]
    tokens: int
    matrix: Callable[[], Any]
    rounds_once: bool = False

    def __call__(self, x: Any, delta: Any = None) -> Any:
        return self.run(x, delta)

    def plus(self, x: Any, h: Any, matrix: Any, y: Any = None) -> Any:
        """`x K + h B`; `y` is `x K` where that is known."""
        if not self.rounds_once:
            return (self.run(x) if y is None else y) + ops.matmul(h, matrix)
        if y is None:
            return sum_of_products(x, self.matrix(), h, matrix)
        return sum_of_known(y, x, self.matrix(), h, matrix)

    def shift(self, x: Any, d: Any) -> Any:
        """`(x + d) K`."""
        return shifted_product(x, d, self.matrix()) if self.rounds_once else self.run(x + d)


def count_tokens(sizes: Sequence[Any], unknown: int = OPEN) -> int:
    """The product of sizes, about where some are open, or symbols of an export."""
    return prod(size if type(size) is int else unknown for size in sizes)


class AdaptedLayer:
    """Mixin that adds the active adapter's output to a layer; one subclass per kind of layer.

    Mixed into the class of a layer by `attach`. The layer keeps its kernel; its
    adapters are child layers named `adapter_<name>`, of which at most one is
    active. A subclass that names the layer classes it `adapts` is found by
    `kind_of`, and its kernels become sites.

    Class attributes: `kernel_name`, the attribute that holds the kernel;
    `looks_up`, whether the input holds indices; `lays_out`, whether it holds
    rows of `m` values, which a method may change; `linear`, whether kernels of
    this kind are adapted where no target is named; `called`, whether the layer
    is called with an input, on which a method's dropout acts.
    """

    adapts: ClassVar[tuple[type, ...]] = ()
    kernel_name: ClassVar[str] = "kernel"
    looks_up: ClassVar[bool] = False
    lays_out: ClassVar[bool] = True
    linear: ClassVar[bool] = True
    called: ClassVar[bool] = True
    kinds: ClassVar[list[type[AdaptedLayer]]] = []

    carried_adapters: tuple[str, ...] = ()
    active_adapter: str | None = None
    mixture: Mixture | None = None
    reads_base: bool = False

    def __init_subclass__(cls) -> None:
        if "adapts" in vars(cls):
            AdaptedLayer.kinds.append(cls)

    @staticmethod
    def view(layer: keras.layers.Layer) -> KernelView:
        """The kernel of a built layer of this kind as a matrix."""
        raise NotImplementedError

    @staticmethod
    def obstacle(layer: keras.layers.Layer) -> str | None:
        """Why a layer of this kind cannot be adapted, `None` if it can."""
        return None

    @staticmethod
    def tie(layer: keras.layers.Layer) -> str | None:
        """Why a layer of this kind is adapted only where that is asked for, `None` if not."""
        return None

    @staticmethod
    def join(layer: keras.layers.Layer) -> None:
        """What else must be done when a layer of this kind gets its first adapter."""

    @staticmethod
    def leave(layer: keras.layers.Layer) -> None:
        """Takes back `join`."""

    @property
    def rests(self) -> bool:
        """Whether the layer computes with its own kernel."""
        return self.reads_base or (self.active_adapter is None and self.mixture is None)

    @property
    def computes(self) -> Any:
        """What a compiled function of the layer depends on besides the values of weights."""
        if self.rests:
            return None
        return self.active_adapter if self.mixture is None else self.mixture.key

    def adapted(self, inputs: Any, compute: Compute, training: bool | None) -> Any:
        """What `compute` makes of inputs by the active adapter, or by that of each sample."""
        if self.mixture is not None:
            return self.mixture.outputs(inputs, compute, adapters_of(self))  # type: ignore[arg-type]
        return compute(inputs, partial(self.adapter().adapt, training=training))

    @property
    def base_kernel(self) -> keras.Variable:
        """The kernel variable, without any adapter; of a quantized layer, that of its integers."""
        if holds_integers(self):  # type: ignore[arg-type]
            return stored_kernel(self)  # type: ignore[arg-type]
        with self.base():
            return getattr(self, self.kernel_name)

    def base_kernel_value(self) -> Any:
        """The kernel without any adapter; of a quantized layer as floats."""
        if not holds_integers(self):  # type: ignore[arg-type]
            return ops.convert_to_tensor(self.base_kernel)
        with self.base():
            return dequantized(self, ops.convert_to_tensor(self.kernel))  # type: ignore[arg-type, attr-defined]

    def effective(self, base: Any) -> Any:
        """The kernel for code that reads it instead of calling the layer."""
        if self.rests:
            return base
        dtype = self.compute_dtype if holds_integers(self) else base.dtype  # type: ignore[arg-type, attr-defined]
        return ops.cast(self.merged_kernel(), dtype)

    def merged_kernel(self) -> Any:
        """The effective kernel in float32, or in float64 where it is stored so."""
        if self.mixture is not None:
            refuse_to_mix(self.path)  # type: ignore[attr-defined]
        kernel = self.base_kernel_value()
        dtype = keras.backend.result_type(kernel.dtype, "float32")
        return ops.add(ops.cast(kernel, dtype), ops.cast(self.adapter().delta(kernel), dtype))

    def base_matrix(self) -> Any:
        """The kernel without any adapter as a matrix, in the compute dtype."""
        kernel = ops.cast(self.base_kernel_value(), self.compute_dtype)  # type: ignore[attr-defined]
        return self.kernel_view.to_matrix(kernel)

    @property
    def kernel_view(self) -> KernelView:
        """The kernel as a matrix."""
        return getattr(self, PREFIX + self.carried_adapters[0]).view

    def adapter(self) -> Adapter:
        """The active adapter."""
        return getattr(self, PREFIX + str(self.active_adapter))

    @contextmanager
    def base(self) -> Iterator[None]:
        """Within, the layer is the one that it was before it was adapted."""
        before = self.reads_base
        _remember(self, "reads_base", True)
        try:
            yield
        finally:
            _remember(self, "reads_base", before)

    @contextmanager
    def mixed(self, mixture: Mixture) -> Iterator[None]:
        """Within, each sample of a batch has an adapter of its own."""
        _remember(self, "mixture", mixture)
        try:
            yield
        finally:
            vars(self).pop("mixture", None)

    def save_own_variables(self, store: Any) -> None:
        with self.base():
            super().save_own_variables(store)  # type: ignore[misc]

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        refuse_keras_lora(self.path)  # type: ignore[attr-defined]

    def __dir__(self) -> list[str]:
        # Saving reads every attribute; computing the effective kernel for that would be slow.
        return [name for name in super().__dir__() if name != self.kernel_name]


class AdaptedKernel(AdaptedLayer):
    """Mixin for layers whose kernel is called so, which code may read."""

    @staticmethod
    def obstacle(layer: keras.layers.Layer) -> str | None:
        if layer.kernel_constraint is not None:
            return "its kernel has a constraint, which an adapter would not obey"
        return None

    @property
    def kernel(self) -> Any:
        """The effective kernel."""
        return self.effective(super().kernel)  # type: ignore[misc]


def attach(layer: keras.layers.Layer, name: str, adapter: Adapter) -> None:
    """Gives a layer an adapter and makes it the active one."""
    carry(layer, name, adapter)
    activate(layer, name)


def carry(layer: keras.layers.Layer, name: str, adapter: Adapter) -> None:
    """Gives a layer an adapter; which one is active and what trains stays as it is."""
    if not isinstance(layer, AdaptedLayer):
        kind = kind_of(layer)
        assert kind is not None
        graft(layer, kind)
        kind.join(layer)
    attach_child(layer, PREFIX + name, adapter)
    adapter.kernel = lambda: layer.base_kernel_value()
    _remember(layer, "carried_adapters", (*layer.carried_adapters, name))


def carry_again(layer: keras.layers.Layer, adapters: dict[str, Adapter], active: Any) -> None:
    """Takes `detach` of all adapters of a layer back, with what trained and what did not."""
    for name, adapter in adapters.items():
        if name not in adapters_of(layer):
            carry(layer, name, adapter)
    _remember(layer, "active_adapter", active)


def detach(layer: keras.layers.Layer, name: str) -> None:
    """Takes back `attach`."""
    detach_child(layer, PREFIX + name)
    _remember(layer, "carried_adapters", tuple(n for n in layer.carried_adapters if n != name))
    if layer.active_adapter == name:
        _remember(layer, "active_adapter", None)
    if not layer.carried_adapters:
        for attribute in ("carried_adapters", "active_adapter", "reads_base"):
            vars(layer).pop(attribute, None)
        layer.leave(layer)
        ungraft(layer, AdaptedLayer)


def activate(layer: keras.layers.Layer, name: str | None) -> None:
    """Makes one adapter of a layer the active one; the others rest and do not train."""
    for other, adapter in adapters_of(layer).items():
        for variable in adapter.trained.values():
            if other == name:
                unpin(variable)
                variable.trainable = True
            else:
                pin(variable)
    _remember(layer, "active_adapter", name)


def adapters_of(layer: keras.layers.Layer) -> dict[str, Adapter]:
    """The adapters of a layer by name."""
    return {name: getattr(layer, PREFIX + name) for name in getattr(layer, "carried_adapters", ())}


def _remember(layer: Any, attribute: str, value: Any) -> None:
    """Sets an attribute that Keras and the backend need not know of."""
    object.__setattr__(layer, attribute, value)


def kind_of(layer: keras.layers.Layer) -> type[AdaptedLayer] | None:
    """The kind of a built layer, if it computes with its kernel as one of that kind does."""
    return kind_of_class(plain_class(layer, AdaptedLayer)) if layer.built else None


def kind_of_class(plain: type) -> type[AdaptedLayer] | None:
    """The kind of the layers of a class."""
    for kind in AdaptedLayer.kinds:
        for cls in kind.adapts:
            if issubclass(plain, cls) and getattr(plain, "call", None) is getattr(cls, "call", ...):
                return kind
    return None


def base_value(layer: keras.layers.Layer) -> Any:
    """The kernel of a layer, adapted or not, without adapters; of a quantized one as floats."""
    if isinstance(layer, AdaptedLayer):
        return layer.base_kernel_value()
    if not holds_integers(layer):
        return ops.convert_to_tensor(base_kernel(layer))
    return dequantized(layer, ops.convert_to_tensor(layer.kernel))


def base_kernel(layer: keras.layers.Layer) -> keras.Variable:
    """The kernel variable of a layer, adapted or not."""
    if holds_integers(layer):
        return stored_kernel(layer)
    if isinstance(layer, AdaptedLayer):
        return layer.base_kernel
    kind = kind_of(layer)
    assert kind is not None
    return getattr(layer, kind.kernel_name)
