"""Mixin classes that let a layer carry adapters, whatever its kind."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial, reduce
from typing import Any, ClassVar

import keras
from keras import ops

from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.adapters.carried import PREFIX, adapters_of
from keras_svd_adapters.adapters.frozen_variables import without_gradient
from keras_svd_adapters.adapters.in_training.backward_gate import BackwardGate
from keras_svd_adapters.adapters.mode import current_mode, with_own_kernels
from keras_svd_adapters.adapters.per_sample import Compute, Mixture, plain
from keras_svd_adapters.adapters.refusals import (
    refuse_keras_lora,
    refuse_per_sample,
    refuse_to_clone,
)
from keras_svd_adapters.adapters.weighted.adapter_weights import WEIGHTS, AdapterWeights
from keras_svd_adapters.adapters.weighted.weighted_sum import weighted_sum
from keras_svd_adapters.kernels.matrix_view import KernelView
from keras_svd_adapters.kernels.quantized import dequantized, holds_integers, stored_kernel
from keras_svd_adapters.runtime.host_memory import move_to_device, move_to_host
from keras_svd_adapters.runtime.keras_private.tracing import only_shapes_matter
from keras_svd_adapters.runtime.user_functions import place_of_user_function


class AdaptedLayer:
    """Mixin that adds the active adapter's output to a layer; one subclass per kind of layer.

    `attach` mixes it into the class of a layer. The layer keeps its kernel. Its
    adapters are child layers named `adapter_<name>`; one of these is active, or none, or
    several with weights.
    A subclass lists the layer classes that it `adapts`. `adapted_class_of` finds the
    subclass by this list, and the kernels of these layers become sites.

    Class attributes: `kernel_name`, the attribute that holds the kernel;
    `is_lookup`, whether the input holds indices; `has_row_inputs`, whether the input
    holds rows of `m` values, which a method may change; `is_default_target`, whether kernels of
    this kind are adapted if no target is named; `is_called`, whether the layer is called
    with an input, to which a method's dropout applies; `has_kernel`, whether a method for kernels
    adapts the layer; `kernel_may_leave`, whether the kernel may be in
    host memory, and all readers of it ask `on_device`.
    """

    adapts: ClassVar[tuple[type, ...]] = ()
    kernel_name: ClassVar[str] = "kernel"
    is_lookup: ClassVar[bool] = False
    has_row_inputs: ClassVar[bool] = True
    is_default_target: ClassVar[bool] = True
    is_called: ClassVar[bool] = True
    has_kernel: ClassVar[bool] = True
    kernel_may_leave: ClassVar[bool] = False
    kinds: ClassVar[list[type[AdaptedLayer]]] = []

    carried_adapters: tuple[str, ...] = ()
    active_adapter: str | None = None  # the only one
    is_weighted: bool = False  # whether the active adapters have weights
    is_merged: bool = False  # whether another adapter changed the kernel
    active_gate: BackwardGate | None = None

    def __init_subclass__(cls) -> None:
        if "adapts" in vars(cls):
            AdaptedLayer.kinds.append(cls)

    @classmethod
    def suits(cls, plain: type) -> bool:
        """Return whether layers of a class are of this kind."""
        call = getattr(plain, "call", None)
        return any(issubclass(plain, c) and call is getattr(c, "call", ...) for c in cls.adapts)

    @staticmethod
    def kernel_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
        """The layer that holds the kernel of a layer of this kind."""
        return layer

    @staticmethod
    def view(layer: keras.layers.Layer) -> KernelView:
        """The kernel of a built layer of this kind as a matrix."""
        raise NotImplementedError

    @staticmethod
    def exclusion_reason(layer: keras.layers.Layer) -> str | None:
        """Return why a layer of this kind cannot be adapted, `None` if it can."""
        return None

    @staticmethod
    def tied_reason(layer: keras.layers.Layer) -> str | None:
        """Return why a layer of this kind is adapted only on request, `None` if by default."""
        return None

    @staticmethod
    def on_first_adapter(layer: keras.layers.Layer) -> None:
        """Do further work when a layer of this kind gets its first adapter."""

    @staticmethod
    def on_last_adapter_removed(layer: keras.layers.Layer) -> None:
        """Undo `on_first_adapter`."""

    def place_kernel(self) -> None:
        """Keep the kernel in host memory while the active adapter computes without it."""
        if self.kernel_may_leave:
            active = adapters_of(self).get(self.active_adapter or "")  # type: ignore[arg-type]
            leaves = active is not None and not active.method.reads_kernel(active.form)
            move = move_to_host if leaves and not self.is_weighted else move_to_device
            move(self.base_kernel)

    def adapter_weights(self) -> AdapterWeights | None:
        """Return the weights of the active adapters, if there may be several."""
        return getattr(self, WEIGHTS) if self.is_weighted else None

    @property
    def active_adapters(self) -> tuple[str, ...]:
        """Names of the active adapters: of one, or of all that have a weight."""
        if (weights := self.adapter_weights()) is not None:
            return tuple(name for name in self.carried_adapters if name in weights.names)
        return () if self.active_adapter is None else (self.active_adapter,)

    @property
    def trained_adapters(self) -> tuple[str, ...]:
        """Names of the active adapters that train."""
        weights = self.adapter_weights()
        trained = None if weights is None else weights.trained
        return tuple(name for name in self.active_adapters if trained is None or name in trained)

    @property
    def mixture(self) -> Mixture | None:
        """The adapters among which each sample has its own, if the running thread mixes them."""
        return current_mode().per_sample.get(id(self))

    @property
    def is_inactive(self) -> bool:
        """Whether the layer computes with its own kernel, in the running thread."""
        mode, own = current_mode(), id(self)
        has_adapter = bool(self.active_adapters) or own in mode.per_sample
        return own in mode.base or not (has_adapter or own in mode.chosen)

    def adapted(self, inputs: Any, compute: Compute, training: bool | None) -> Any:
        """Run `compute` on inputs with the active adapters, or with those of each sample."""
        mode = current_mode()
        if mode.notice is not None:
            mode.notice(inputs)
        if place := place_of_user_function(inputs[0] if isinstance(inputs, list) else inputs):
            vars(self).setdefault("traced_by_user", {})[place] = " and ".join(self.active_adapters)
        if (mixture := mode.per_sample.get(id(self))) is not None:
            assert mode.ids is not None
            return mixture.outputs(inputs, compute, adapters_of(self), mode.ids)  # type: ignore[arg-type]
        if only_shapes_matter():  # an adapter changes neither shape nor dtype
            return compute(inputs, plain)
        adapters, weights = self.computing()
        if weights is None:
            (adapter,) = adapters.values()
            return compute(inputs, partial(adapter.adapt, training=training))
        summed = partial(weighted_sum, adapters=adapters, weights=weights, training=training)
        return compute(inputs, summed)

    @property
    def base_kernel(self) -> keras.Variable:
        """The kernel variable, without any adapter; for a quantized layer, the integer variable."""
        if holds_integers(self):  # type: ignore[arg-type]
            return stored_kernel(self)  # type: ignore[arg-type]
        return self.own_kernel

    @property
    def own_kernel(self) -> keras.Variable:
        """What the layer returned as its kernel before it was adapted."""
        return getattr(self, self.kernel_name)

    def base_kernel_value(self) -> Any:
        """Return the kernel without any adapter; for a quantized layer, as floats."""
        if not holds_integers(self):  # type: ignore[arg-type]
            return ops.convert_to_tensor(without_gradient(self.own_kernel))
        with self.base_only():
            return dequantized(self)

    def effective_kernel(self, base: Any) -> Any:
        """Return the kernel for code that reads the kernel instead of calling the layer."""
        if self.is_inactive or not self.changes_kernel:
            return base
        dtype = self.compute_dtype if holds_integers(self) else base.dtype  # type: ignore[arg-type, attr-defined]
        return ops.cast(self.merged_kernel(), dtype)

    @property
    def changes_kernel(self) -> bool:
        """Whether one of the adapters that compute changes the kernel; a prompt does not."""
        found = adapters_of(self) if self.mixture is not None else self.computing()[0]  # type: ignore[arg-type]
        return any(adapter.method.prompt is None for adapter in found.values())

    def merged_kernel(self) -> Any:
        """Return the effective kernel in float32, or in float64 for a kernel stored in float64."""
        if self.mixture is not None:
            refuse_per_sample(self.path)  # type: ignore[attr-defined]
        kernel = self.base_kernel_value()
        dtype = keras.backend.result_type(kernel.dtype, "float32")
        return ops.add(ops.cast(kernel, dtype), ops.cast(self.update(kernel), dtype))

    def update(self, kernel: Any) -> Any:
        """Return what the active adapters add to the kernel, in float32; prompts add nothing."""
        adapters, weights = self.computing()
        of_kernel = {name: a for name, a in adapters.items() if a.method.prompt is None}
        deltas = {name: a.delta(kernel) for name, a in (of_kernel or adapters).items()}
        if weights is not None:
            deltas = {name: weights[name] * delta for name, delta in deltas.items()}
        return reduce(ops.add, deltas.values())

    def base_matrix(self) -> Any:
        """Return the kernel without any adapter as a matrix, in the compute dtype."""
        kernel = ops.cast(self.base_kernel_value(), self.compute_dtype)  # type: ignore[attr-defined]
        return self.kernel_view.to_matrix(kernel)

    @property
    def kernel_view(self) -> KernelView:
        """The kernel as a matrix."""
        return getattr(self, PREFIX + self.carried_adapters[0]).view

    def computing(self) -> tuple[dict[str, Adapter], dict[str, Any] | None]:
        """Return the adapters that the layer computes with in this thread, and their weights."""
        chosen, weights = current_mode().chosen.get(id(self)), self.adapter_weights()
        names = (chosen,) if chosen is not None else self.active_adapters
        adapters = {name: getattr(self, PREFIX + name) for name in names}
        return adapters, None if weights is None or chosen is not None else weights.of(names)

    def adapter(self) -> Adapter:
        """Return the only adapter that the layer computes with in this thread."""
        (adapter,) = self.computing()[0].values()
        return adapter

    def base_only(self) -> AbstractContextManager[None]:
        """Context manager: the layer computes as it did before it was adapted, in this thread."""
        return with_own_kernels(frozenset((id(self),)))

    def save_own_variables(self, store: Any) -> None:
        with self.base_only():
            super().save_own_variables(store)  # type: ignore[misc]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        refuse_to_clone(config.get("name"))

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        refuse_keras_lora(self.path)  # type: ignore[attr-defined]

    def __dir__(self) -> list[str]:
        # Saving reads every attribute; computing the effective kernel for that would be slow.
        return [name for name in super().__dir__() if name != self.kernel_name]
