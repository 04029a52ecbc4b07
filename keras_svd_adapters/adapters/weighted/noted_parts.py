"""What a method adds to the outputs of a layer, without the product with the frozen kernel.

A method whose `apply` returns what its base returned adds a product, a shift of the inputs, or a
change of the kernel. Any other method, such as DoRA, is known by its outputs alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

from keras import ops

from keras_svd_adapters.adapters.operation import Operation

OUTPUTS = "outputs"


class NotedParts:
    """The parts that adapters add to the outputs of one frozen operation.

    Args:
        x: The inputs.
        base: The frozen operation of the layer.
        dtype: The compute dtype of the layer.
    """

    def __init__(self, x: Any, base: Operation, dtype: str):
        self.x, self.dtype = x, dtype
        self.run = base.run
        self.base = replace(base, run=self._run)

    def _run(self, x: Any, delta: Any = None) -> Any:
        return self.plain if x is self.x and delta is None else self.run(x, delta)

    @cached_property
    def plain(self) -> Any:
        """`x K`."""
        return self.run(self.x)

    @cached_property
    def placeholder(self) -> Any:
        """Zeros in the shape of the outputs, without a product with the kernel."""
        m, n = self.base.shape
        thin = self.base.times(self.x, ops.zeros((m, 1), self.dtype))
        return ops.broadcast_to(thin, (*ops.shape(thin)[:-1], n))

    def part_of(self, apply: Callable[..., Any]) -> tuple[str, Any]:
        """Return the kind and the value of what an adapter adds.

        Args:
            apply: Function that returns the outputs of the adapter for a frozen operation.

        Returns:
            `"product"` with h and B, `"shift"` with d, `"delta"` with a change of the kernel, or
            `"outputs"` with all outputs of the layer.
        """
        noted = NotedOperation(self)
        y = apply(base=noted)
        if len(noted.noted) == 1 and y is self.placeholder:
            return noted.noted[0]
        return OUTPUTS, apply(base=self.base) if noted.noted else y


class NotedOperation:
    """A frozen operation that notes what a method adds to `x K`, and returns a placeholder.

    Args:
        parts: The parts of the layer.
    """

    def __init__(self, parts: NotedParts):
        self.parts = parts
        self.base = parts.base
        self.noted: list[tuple[str, Any]] = []
        self.shape, self.tokens = self.base.shape, self.base.tokens
        self.matrix, self.times = self.base.matrix, self.base.times
        self.sample_mean = self.base.sample_mean

    def __getattr__(self, name: str) -> Any:  # of attention
        return getattr(self.base, name)

    def __call__(self, x: Any, delta: Any = None) -> Any:
        if delta is None:
            return self.base(x)
        return self._note("delta", delta) if x is self.parts.x else self.base(x, delta)

    def plus(self, x: Any, h: Any, matrix: Any, y: Any = None) -> Any:
        if x is self.parts.x:
            return self._note("product", (h, matrix))
        return self.base.plus(x, h, matrix, y)

    def shift(self, x: Any, d: Any) -> Any:
        return self._note("shift", d) if x is self.parts.x else self.base.shift(x, d)

    def _note(self, kind: str, value: Any) -> Any:
        self.noted.append((kind, value))
        return self.parts.placeholder
