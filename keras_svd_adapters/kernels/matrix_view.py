"""A kernel as a matrix, read from the layer's own equation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from keras_svd_adapters.kernels.axes import Shape, _gather_axes, _scatter_axes


@dataclass(frozen=True)
class KernelView:
    """How a kernel of any rank becomes an `(m, n)` matrix and back.

    The axes of the kernel that are summed over with the input become the rows,
    `m` of them in all; the axes that appear in the output become the columns,
    `n` of them. Activations are regrouped the same way, so that the algebra of
    a method only ever meets `(..., m)` inputs and `(..., n)` outputs.

    Args:
        shape: Shape of the kernel as the layer stores it.
        rows: Axes of the kernel that are contracted, in the kernel's order.
        columns: Axes of the kernel that reach the output, likewise.
        input_axes: For each of `rows`, its axis in the input, counted from
            the end (negative).
        output_axes: For each of `columns`, its axis in the output, negative.
        stack: Axes along which kernels of their own lie, such as experts.
    """

    shape: Shape
    rows: Shape
    columns: Shape
    input_axes: Shape
    output_axes: Shape
    stack: Shape = ()

    @classmethod
    def from_dense(cls, shape: Shape) -> KernelView:
        """View of the `(m, n)` kernel of a `Dense` layer."""
        return cls(tuple(shape), (0,), (1,), (-1,), (-1,))

    @classmethod
    def from_convolution(cls, shape: Shape) -> KernelView:
        """View of a convolution's kernel, whose last axis is that of its outputs.

        Its rows are those of the patches of an input, which are not laid out: inputs and
        outputs are not regrouped by this view.
        """
        return cls(tuple(shape), tuple(range(len(shape) - 1)), (len(shape) - 1,), (), (-1,))

    @classmethod
    def from_axes(cls, axes: str, shape: Shape) -> KernelView:
        """View of a weight that code reads, so that inputs and outputs are not regrouped.

        Args:
            axes: A letter per axis of the weight: `m` for one that is summed over with the input,
                `n` for one that reaches the output, `s` along which kernels are stacked.
            shape: Shape of the weight.
        """
        stack, rows, columns = (
            tuple(i for i, letter in enumerate(axes) if letter == one) for one in "smn"
        )
        return cls(tuple(shape), rows, columns, (), (), stack)

    @classmethod
    def from_equation(cls, equation: str, shape: Shape) -> KernelView:
        """View of the kernel of an `EinsumDense` layer.

        Args:
            equation: Equation of the layer, such as `"btd,ndh->btnh"`.
            shape: Shape of the kernel.

        Returns:
            A `KernelView`.

        Raises:
            ValueError: If the kernel is not one matrix: a label shared by the
                input, the kernel and the output (one matrix a slice), or a
                label of the kernel that nothing else uses; or if the layer
                sums or reorders other axes.
        """
        inputs, output = equation.replace(" ", "").split("->")
        x, kernel = inputs.split(",")
        if "." in x.lstrip(".") + output.lstrip("."):
            raise ValueError(
                "An ellipsis is read only at the start of the input and the output, as in "
                f"`...a,ab->...b`. Received: equation={equation!r}"
            )
        rows = tuple(i for i, label in enumerate(kernel) if label in x and label not in output)
        columns = tuple(i for i, label in enumerate(kernel) if label in output and label not in x)
        if len(rows) + len(columns) != len(kernel) or not rows or not columns:
            raise ValueError(
                "Only a kernel whose every axis is either contracted with the input or "
                "new in the output can be adapted: each axis of "
                f"`{kernel}` must appear in exactly one of `{x}` and `{output}`. Name the "
                f"other layers in `targets`. Received: equation={equation!r}"
            )
        if [i for i in x if i not in kernel] != [i for i in output if i not in kernel]:
            raise ValueError(
                "Only a layer that leaves the other axes of its input in place can be adapted. "
                f"Received: equation={equation!r}"
            )
        return cls(
            tuple(shape),
            rows,
            columns,
            tuple(x.index(kernel[i]) - len(x) for i in rows),
            tuple(output.index(kernel[i]) - len(output) for i in columns),
        )

    @property
    def m(self) -> int:
        """Number of rows: the size of the contracted axes together."""
        return math.prod(self.shape[i] for i in self.rows)

    @property
    def n(self) -> int:
        """Number of columns: the size of the output axes together."""
        return math.prod(self.shape[i] for i in self.columns)

    @property
    def count(self) -> int | None:
        """How many kernels are stacked, `None` for one that is not."""
        return math.prod(self.shape[i] for i in self.stack) if self.stack else None

    @property
    def matrix_shape(self) -> Shape:
        """`(m, n)`, or `(count, m, n)`."""
        return (self.m, self.n) if self.count is None else (self.count, self.m, self.n)

    def to_matrix(self, kernel: Any) -> Any:
        """The kernel, NumPy or backend tensor, as a matrix, or a stack of such."""
        if self._is_matrix:
            return kernel
        namespace = np if isinstance(kernel, np.ndarray) else ops
        return namespace.reshape(namespace.transpose(kernel, self._order), self.matrix_shape)

    def from_matrix(self, matrix: Any) -> Any:
        """What `to_matrix` gives, in the shape of the kernel."""
        if self._is_matrix:
            return matrix
        namespace = np if isinstance(matrix, np.ndarray) else ops
        order = self._order
        spread = namespace.reshape(matrix, tuple(self.shape[i] for i in order))
        return namespace.transpose(spread, tuple(order.index(i) for i in range(len(order))))

    def split(self, stack: Any) -> list[Any]:
        """What is there for each matrix of the kernel."""
        return [stack] if self.count is None else [stack[i] for i in range(self.count)]

    def joined(self, values: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The arrays of each matrix as those of the kernel."""
        if self.count is None:
            return values[0]
        return {name: np.stack([each[name] for each in values]) for name in values[0]}

    def slice(self, kernel: Any, index: int) -> Any:
        """One kernel of a stack, its axes as they are."""
        places = iter(np.unravel_index(index, [self.shape[i] for i in self.stack]))
        axes = range(len(self.shape))
        return kernel[tuple(int(next(places)) if i in self.stack else slice(None) for i in axes)]

    def slice_to_matrix(self, kernel: np.ndarray) -> np.ndarray:
        """What `slice` gives, as an `(m, n)` matrix."""
        left = [i for i in range(len(self.shape)) if i not in self.stack]
        order = [left.index(i) for i in self.rows + self.columns]
        return kernel.transpose(order).reshape(self.m, self.n)

    @property
    def _order(self) -> Shape:
        return self.stack + self.rows + self.columns

    @property
    def _is_matrix(self) -> bool:
        return self.shape == self.matrix_shape and self._order == tuple(range(len(self.shape)))

    def flatten_input(self, x: Any) -> Any:
        """An input of the layer as `(..., m)`."""
        return _gather_axes(x, self.input_axes)

    def unflatten_input(self, x: Any) -> Any:
        """A `(..., m)` tensor in the layout of the layer's input."""
        return _scatter_axes(x, self.input_axes, tuple(self.shape[i] for i in self.rows))

    def flatten_output(self, y: Any) -> Any:
        """An output of the layer as `(..., n)`."""
        return _gather_axes(y, self.output_axes)

    def unflatten_output(self, y: Any) -> Any:
        """A `(..., n)` tensor in the layout of the layer's output."""
        return _scatter_axes(y, self.output_axes, tuple(self.shape[i] for i in self.columns))
