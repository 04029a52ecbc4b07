"""AM-LoRA: each layer attends to what several frozen adapters add to its outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_svd_adapters.adapters.mode import Mode, in_mode
from keras_svd_adapters.adapters.weighted.attended_sum import AttendedSum, AttentionValues
from keras_svd_adapters.models.routing.adapter_router import AdapterRouter, check_names, tensors
from keras_svd_adapters.models.weights_request import is_weight


class AMLoRA(AdapterRouter):
    """Model around a model with adapters of several tasks: each layer attends to their outputs.

    Every kernel computes

        y = x K + sum_i a_i c_i      c_i = x (K_i - K)      a_i = sigmoid(c_i q / sqrt(n) + b_i)

    for each row: c_i is what adapter i adds to the n outputs, and the weight a_i is the attention
    of the layer's query q to it, with a bias b_i. At the start, each weight is one over the number
    of adapters. The queries and biases alone train, with `compile` and `fit` as usual. The sum of
    the weights of a row, as a mean over rows and layers, times `penalty`, is added to the loss:
    this L1 norm turns off adapters that do not help. For continual learning, train an adapter for
    the new task alone, then the attention over all of them.

    The paper has an attention over the outputs of task LoRAs with an L1 norm. The score, the
    sigmoid and the size of the penalty are choices of this package: with a softmax, the L1 norm
    would always be 1.

    Args:
        model: A model with adapters.
        names: Names of the adapters.
        penalty: Float, the factor of the L1 norm in the loss; 0 is none.

    Raises:
        ValueError: If there is no adapter of a name, or an argument is wrong. At
            a call, if a layer reads its kernel instead of multiplying by it.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    >>> for name in ("a", "b"):
    ...     _ = ksa.enable(model, ksa.LoRA(rank=2), name=name)
    >>> mixed = ksa.AMLoRA(model, ["a", "b"])
    >>> mixed.compile(keras.optimizers.Adam(1e-2), "mse")
    >>> _ = mixed.fit(keras.ops.ones((4, 8)), keras.ops.ones((4, 2)), verbose=0)

    Reference:
        - [Liu et al., 2024](https://arxiv.org/abs/2409.19611)
    """

    def __init__(self, model: keras.Model, names: Sequence[str], penalty: float = 1e-3):
        if not is_weight(penalty) or penalty < 0:
            raise ValueError(f"`penalty` must not be negative. Received: penalty={penalty!r}")
        check_names(model, names, "am_lora")
        super().__init__(model, names, "am_lora")
        self.penalty = penalty
        self.attention = Attention(name="attention", dtype="float32")
        for site, own in self.own_names():
            if own:
                self.attention.add_kernel(site.view.n, len(own))
        self.attention.built = self.built = True

    @property
    def own_trainable(self) -> list[keras.Variable]:
        return self.attention.trainable_weights

    def values(self) -> Any:
        return [tensors(pair) for pair in self.attention.pairs()]

    def call(self, inputs: Any, training: bool = False) -> Any:
        norms: list[Any] = []
        notice = (lambda a: norms.append(ops.mean(ops.sum(a, axis=-1)))) if self.penalty else None
        with in_mode(self._attending(self.values(), notice)):
            y = self.model(inputs, training=training)
        if norms:
            self.add_loss(self.penalty * ops.mean(ops.stack(norms)))
        return y

    def call_with_cache(
        self, plain: Callable[..., Any], values: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Compute as `AdapterRouter` says: a row has its weights from its own outputs alone."""
        with in_mode(self._attending(values)):
            return plain(*args, **kwargs)

    def _attending(self, values: Any, notice: Callable[[Any], None] | None = None) -> Mode:
        attended = [(site, names) for site, names in self.own_names() if names]
        mixtures = {
            id(site.layer): AttendedSum(names, place)
            for place, (site, names) in enumerate(attended)
        }
        return self.mixed(mixtures, AttentionValues(self.names, values, notice=notice))


class Attention(keras.layers.Layer):
    """The query and the biases of each kernel."""

    def add_kernel(self, outputs: int, adapters: int) -> None:
        """Add the arrays of a kernel with so many outputs and adapters."""
        place = len(self.weights) // 2
        even = -float(np.log(max(adapters - 1, 0.05)))  # sigmoid: one over their number
        start = keras.initializers.Constant(even)
        self.add_weight(shape=(outputs,), initializer="zeros", name=f"query_{place}")
        self.add_weight(shape=(adapters,), initializer=start, name=f"biases_{place}")

    def pairs(self) -> list[list[keras.Variable]]:
        """Return the query and the biases of each kernel."""
        return [list(self.weights[i : i + 2]) for i in range(0, len(self.weights), 2)]
