"""Attention layers with adapters: more keys and values for their queries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import keras
from keras import ops

from keras_svd_adapters.adapters.adapted_layer import AdaptedLayer
from keras_svd_adapters.adapters.layer_kinds import base_kernel_value, base_kernel_variable
from keras_svd_adapters.adapters.layers.dense import AdaptedProjection, thin_product
from keras_svd_adapters.adapters.layers.grouped_attention import grouped_attention
from keras_svd_adapters.adapters.mode import Mode, in_mode
from keras_svd_adapters.adapters.operation import Operation, count_tokens
from keras_svd_adapters.adapters.per_sample import Adapt
from keras_svd_adapters.kernels.matrix_view import KernelView
from keras_svd_adapters.runtime.keras_private.attention import (
    ComputesAttention,
    computes_known_attention,
    key_and_value_layers,
)
from keras_svd_adapters.runtime.keras_private.layers import all_layers
from keras_svd_adapters.runtime.keras_private.tracing import is_training


@dataclass(frozen=True)
class AttentionOperation(Operation):
    """The frozen attention of a layer, as `methods.contract.Attention` defines."""

    attend: Callable[..., Any] = field(kw_only=True)
    project: Callable[[Any], tuple[Any, Any]] = field(kw_only=True)
    in_groups: Callable[[Any, int], Any] = field(kw_only=True)


class AdaptedAttention(ComputesAttention, AdaptedLayer):
    """Mixin for attention layers, whose methods work on projected queries, keys and values.

    The kernel of such a layer is that of its keys: of its shape are the keys of a method, and
    files have its fingerprint.
    """

    adapts: ClassVar[tuple[type, ...]] = ()
    has_kernel: ClassVar[bool] = False

    @classmethod
    def suits(cls, plain: type) -> bool:
        return computes_known_attention(plain)

    @staticmethod
    def kernel_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
        return key_and_value_layers(layer)[0]

    @staticmethod
    def view(layer: keras.layers.Layer) -> KernelView:
        return AdaptedProjection.view(key_and_value_layers(layer)[0])

    @staticmethod
    def exclusion_reason(layer: keras.layers.Layer) -> str | None:
        keys, values, _ = key_and_value_layers(layer)
        views = [AdaptedProjection.view(each) for each in (keys, values)]
        sizes = [tuple(view.shape[axis] for axis in view.columns) for view in views]
        if sizes[0] != sizes[1]:
            return f"its keys and values differ: heads and sizes are {sizes[0]} and {sizes[1]}"
        if len(keys.equation.split("->")[1]) != 4:
            return "its inputs have several axes of tokens"
        return None

    @property
    def base_kernel(self) -> keras.Variable:
        return base_kernel_variable(key_and_value_layers(self)[0])

    def base_kernel_value(self) -> Any:
        return base_kernel_value(key_and_value_layers(self)[0])

    def attention(self, arguments: list[Any], options: dict[str, Any]) -> Any:
        if options.get("return_attention_scores"):
            raise ValueError(
                "An adapter adds keys to this attention, so it has no scores of the tokens alone: "
                "call the layer within `disabled(model)` for these. "
                f"Received: return_attention_scores=True for {self.path}"  # type: ignore[attr-defined]
            )
        if (mask := arguments[3]) is None:
            arguments = arguments[:3]
        elif self.mixture is not None:
            shape = ops.shape(arguments[0])[0], *ops.shape(mask)[1:]
            arguments = [*arguments[:3], ops.broadcast_to(mask, shape)]
        return self.adapted(arguments, partial(self._adapted, options=options), is_training())

    def _adapted(self, arguments: list[Any], adapt: Adapt, options: dict[str, Any]) -> Any:
        view, query = self.kernel_view, arguments[0]
        operation = AttentionOperation(
            lambda query, delta=None: self.own_attention([query, *arguments[1:]], options),
            thin_product,
            (view.m, view.n),
            count_tokens(query.shape[:2]),
            self.base_matrix,
            attend=partial(self._attend, arguments, options),
            project=self._project,
            in_groups=partial(self._in_groups, arguments, options),
        )
        return adapt(query, operation)

    def _attend(
        self,
        arguments: list[Any],
        options: dict[str, Any],
        query: Any,
        keys: Any,
        values: Any,
        alone: bool = False,
    ) -> Any:
        _, key, value, *masks = arguments
        count = keys.shape[0]
        pairs = [self._for_each(query, pair, key.shape[2]) for pair in (keys, values)]
        places = [ops.repeat(ops.ones_like(mask[..., :1]), count, axis=-1) for mask in masks]
        if alone:  # without dropout
            still = options | ({"training": False} if "training" in options else {})
            return self.own_attention([query, *pairs, *places], still, count)
        masks = [_of_keys(mask, key) for mask in masks]
        parts = zip([*pairs, *places], [key, value, *masks], (1, 1, -1))
        joined = [ops.concatenate([before, after], axis=axis) for before, after, axis in parts]
        return self.own_attention([query, *joined], options, count)

    def _in_groups(
        self, arguments: list[Any], options: dict[str, Any], query: Any, groups: int
    ) -> Any:
        compute = partial(self.own_attention, options=options)
        arguments = [query, *arguments[1:]]
        return (
            grouped_attention(arguments, groups, compute) if is_training() else compute(arguments)
        )

    def _for_each(self, query: Any, rows: Any, heads: int) -> Any:
        """Return `(p, n)` keys or values for each query of a batch and each of its heads."""
        rows = self.kernel_view.unflatten_output(rows)
        rows = ops.repeat(rows, heads // rows.shape[1], axis=1)
        return ops.broadcast_to(rows, (ops.shape(query)[0], *rows.shape))

    def _project(self, rows: Any) -> tuple[Any, Any]:
        """Return the keys and values of `(p, m)` rows in the frozen layers, without positions."""
        keys, values, norm = key_and_value_layers(self)
        frozen = [below for layer in (keys, values) for below in all_layers(layer)]
        rows = rows[None]
        with in_mode(Mode(base=frozenset(map(id, frozen)))):
            key, value = keys(rows), values(rows)
            key = key if norm is None else norm(key)
        return tuple(self.kernel_view.flatten_output(each)[0] for each in (key, value))


def _of_keys(mask: Any, key: Any) -> Any:
    """Return a mask with a place for each key, if it had one for all of them."""
    return ops.repeat(mask, ops.shape(key)[1], axis=-1) if mask.shape[-1] == 1 else mask
