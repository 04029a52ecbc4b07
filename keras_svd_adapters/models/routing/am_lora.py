"""AM-LoRA: each layer attends to what several frozen adapters add to its outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_svd_adapters.adapters.mode import Mode, in_mode
from keras_svd_adapters.adapters.weighted.attended_sum import AttendedSum, AttentionValues
from keras_svd_adapters.models.routing.adapter_router import AdapterRouter, tensors
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.weights_request import is_weight


class AMLoRA(AdapterRouter):
    """Model around a model with adapters of several tasks: each layer attends to their outputs.

    Every kernel computes, with n outputs,

        y = x K + sum_i a_i c_i      c_i = x (K_i - K)
        a = softmax(silu(c_i q_i + b_i), silu(b_0))

    for each row: c_i is what adapter i adds to the outputs, and q_i and b_i are a dense layer of
    its own that scores it. The score of an adapter of zeros, b_0, keeps the base model reachable.
    At the start, each of them has the same weight, and so has each adapter. The scores alone train,
    with `compile` and `fit` as usual. `penalty` times the sum of the sizes of all q is added to the
    loss. For continual learning, train an adapter for the new task, then the scores of all.

    The paper trains the adapter of the new task and the scores together. Scores of rows, the
    function silu and the size of the penalty are choices of this package.

    Args:
        model: A model with adapters.
        names: Names of the adapters.
        penalty: Float, the factor of the L1 norm of the scores in the loss; 0 is none.

    Raises:
        ValueError: If there is no adapter of a name, if one belongs to an attention
            layer or has a prompt, or if an argument is wrong. At a call, if a layer
            reads its kernel instead of multiplying by it.

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

    def __init__(self, model: keras.Model, names: Sequence[str], penalty: float = 1e-4):
        if not is_weight(penalty) or penalty < 0:
            raise ValueError(f"`penalty` must not be negative. Received: penalty={penalty!r}")
        super().__init__(model, names, "am_lora")
        _check_kernels(model, self.names)
        self.attention = AttentionScores(penalty)
        attended = [(site, own) for site, own in self.own_kernels() if own]
        self.places = tuple((site.key, own) for site, own in attended)
        for site, own in attended:
            self.attention.add_kernel(site.view.n, len(own))
        self.attention.built = self.built = True

    @property
    def own_trainable(self) -> list[keras.Variable]:
        return self.attention.trainable_weights

    def values(self) -> Any:
        return [tensors(pair) for pair in self.attention.pairs()]

    def call(self, inputs: Any, training: bool = False) -> Any:
        with in_mode(self._attending(self.values())):
            return self.model(inputs, training=training)

    def call_with_cache(
        self, plain: Callable[..., Any], values: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Compute as `AdapterRouter` says: a row has its weights from its own outputs alone."""
        with in_mode(self._attending(values)):
            return plain(*args, **kwargs)

    def _attending(self, values: Any) -> Mode:
        kernels = self.own_kernels()
        if tuple((site.key, names) for site, names in kernels if names) != self.places:
            raise ValueError(
                "The scores belong to the adapters that each kernel had when this model was made: "
                "make a new `AMLoRA`, and train it. Received: kernels "
                f"{[site.path for site, names in kernels if names]} with other adapters by now"
            )

        def attended(place: int, names: tuple[str, ...]) -> AttendedSum:
            return AttendedSum(names, place)

        return self.mixed(kernels, attended, AttentionValues(self.names, values))


def _check_kernels(model: keras.Model, names: Sequence[str]) -> None:
    """Raise an error if an adapter belongs to an attention layer, which has no kernel."""
    for name in names:
        for site in adapted_sites(model, name):
            if not site.host.has_kernel:
                raise ValueError(
                    "AMLoRA scores the outputs of kernels, and this adapter belongs to an "
                    "attention layer: leave it out, or use `XLoRA`. "
                    f"Received: {name!r} on `{site.path}`"
                )


class AttentionScores(keras.layers.Layer):
    """The scores of each kernel: queries and biases.

    Args:
        penalty: The factor of the L1 norm of the queries in the loss.
    """

    def __init__(self, penalty: float):
        super().__init__(name="attention", dtype="float32")
        self.norm = keras.regularizers.L1(penalty) if penalty else None

    def add_kernel(self, outputs: int, adapters: int) -> None:
        """Add the arrays of a kernel with so many outputs and adapters."""
        place = len(self.weights) // 2
        self.add_weight(
            shape=(adapters, outputs),
            initializer="zeros",
            regularizer=self.norm,
            name=f"queries_{place}",
        )
        self.add_weight(shape=(adapters + 1,), initializer="zeros", name=f"biases_{place}")

    def pairs(self) -> list[list[keras.Variable]]:
        """Return the queries and the biases of each kernel."""
        return [list(self.weights[i : i + 2]) for i in range(0, len(self.weights), 2)]
