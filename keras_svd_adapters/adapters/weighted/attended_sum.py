"""The outputs of a layer that attends to what each of its adapters adds to them.

y = x K + sum_i a_i c_i      c_i = x (K_i - K)      a = softmax(silu(c_i q_i + b_i), silu(b_0))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from keras import ops

from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.adapters.operation import Operation
from keras_svd_adapters.adapters.per_sample import AdapterIds, Compute
from keras_svd_adapters.adapters.weighted.noted_parts import OUTPUTS, NotedParts
from keras_svd_adapters.methods.algebra import matmul


@dataclass(frozen=True, eq=False)
class AttentionValues(AdapterIds):
    """The queries q and the biases b of each layer, b_0 last: `ids` lists pairs of these."""

    chooses: ClassVar[bool] = False


@dataclass(frozen=True, eq=False)
class AttendedSum:
    """Computation of a layer that attends to its adapters.

    Args:
        names: Names of the layer's adapters.
        place: Place of the layer's queries and biases among those of all layers.
    """

    names: tuple[str, ...]
    place: int

    maps: ClassVar[bool] = False

    def outputs(
        self, inputs: Any, compute: Compute, adapters: Mapping[str, Adapter], chosen: AdapterIds
    ) -> Any:
        """Compute the outputs of the layer, as `Mixture` says."""
        assert isinstance(chosen, AttentionValues)
        own = [adapters[name] for name in self.names]
        queries, biases = (ops.cast(each, "float32") for each in chosen.ids[self.place])

        def adapt(x: Any, base: Operation) -> Any:
            parts = NotedParts(x, base, own[0].compute_dtype)
            found = [change(parts, each) for each in own]
            changes = ops.cast(ops.stack(found, axis=-2), "float32")  # (..., adapters, n)
            scores = ops.sum(changes * queries, axis=-1) + biases[:-1]
            base_score = ops.broadcast_to(biases[-1], (*ops.shape(scores)[:-1], 1))
            scores = ops.silu(ops.concatenate([scores, base_score], axis=-1))
            weights = ops.softmax(scores)[..., :-1]
            total = ops.sum(changes * weights[..., None], axis=-2)
            return parts.plain + ops.cast(total, parts.plain.dtype)

        return compute(inputs, adapt)


def change(parts: NotedParts, adapter: Adapter) -> Any:
    """Return what an adapter adds to the outputs of a layer."""
    arrays = adapter.prepared_arrays(False)
    apply = partial(adapter.adapt, parts.x, training=False, coefficients=arrays)
    kind, value = parts.part_of(apply)
    if kind == "product":
        return matmul(*value)
    if kind == "delta":
        return parts.base.times(parts.x, value)
    if kind == "shift":
        value = parts.base.shift(parts.x, value)
    else:
        assert kind == OUTPUTS
    return value - parts.plain
