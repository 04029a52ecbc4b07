"""View of a kernel as a matrix, derived from the layer's own equation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from keras import ops

from keras_svd_adapters.kernels.axes import Shape, _gather_axes, _scatter_axes, are_last, as_rows
from keras_svd_adapters.methods.algebra import reshape


@dataclass(frozen=True)
class KernelView:
    """View of a kernel of any rank as an `(m, n)` matrix, and back.

    Kernel axes that are contracted with the input become the rows, `m` in all.
    Kernel axes that appear in the output become the columns, `n` in all. The
    view regroups activations in the same way, so a method sees only `(..., m)`
    inputs and `(..., n)` outputs.

    Args:
        shape: Shape of the kernel as the layer stores it.
        rows: Axes of the kernel that are contracted, in the kernel's order.
        columns: Axes of the kernel that reach the output, in the kernel's
            order.
        input_axes: For each of `rows`, its axis in the input, counted from the
            end (negative).
        output_axes: For each of `columns`, its axis in the output, counted from
            the end (negative).
        stack: Axes along which separate kernels are stacked, such as experts.
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
        """View of a convolution's kernel, whose last axis is the output axis.

        The rows correspond to the patches of an input. The patches are not laid out as an array, so
        this view does not regroup inputs and outputs.
        """
        return cls(tuple(shape), tuple(range(len(shape) - 1)), (len(shape) - 1,), (), (-1,))

    @classmethod
    def from_axes(cls, axes: str, shape: Shape) -> KernelView:
        """View of a weight that code reads, without regrouping of inputs and outputs.

        Args:
            axes: A letter for each axis of the weight: `m` for an axis that is
                contracted with the input, `n` for an axis that reaches the
                output, `s` for an axis along which kernels are stacked.
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
            ValueError: If the kernel is not one matrix, or if the layer sums or
                reorders other axes. A label shared by the input, the kernel and
                the output gives one matrix per slice. A label of the kernel
                that nothing else uses is not allowed either.
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

    @cached_property
    def m(self) -> int:
        """Number of rows: the product of the sizes of the contracted axes."""
        return math.prod(self.shape[i] for i in self.rows)

    @cached_property
    def n(self) -> int:
        """Number of columns: the product of the sizes of the output axes."""
        return math.prod(self.shape[i] for i in self.columns)

    @cached_property
    def count(self) -> int | None:
        """Number of stacked kernels, or `None` if the kernel is not stacked."""
        return math.prod(self.shape[i] for i in self.stack) if self.stack else None

    @cached_property
    def matrix_shape(self) -> Shape:
        """Shape `(m, n)`, or `(count, m, n)` for stacked kernels."""
        return (self.m, self.n) if self.count is None else (self.count, self.m, self.n)

    def to_matrix(self, kernel: Any) -> Any:
        """Return the kernel, NumPy array or backend tensor, as a matrix or a stack of matrices."""
        if self._is_matrix:
            return kernel
        namespace = np if isinstance(kernel, np.ndarray) else ops
        return namespace.reshape(namespace.transpose(kernel, self._order), self.matrix_shape)

    def from_matrix(self, matrix: Any) -> Any:
        """Undo `to_matrix`: return a matrix in the shape of the kernel."""
        if self._is_matrix:
            return matrix
        namespace = np if isinstance(matrix, np.ndarray) else ops
        order = self._order
        spread = namespace.reshape(matrix, tuple(self.shape[i] for i in order))
        return namespace.transpose(spread, tuple(order.index(i) for i in range(len(order))))

    def split(self, stack: Any) -> list[Any]:
        """Split a stack into a list with one item for each matrix of the kernel."""
        return [stack] if self.count is None else [stack[i] for i in range(self.count)]

    def joined(self, values: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Stack the arrays of each matrix into the arrays of the kernel."""
        if self.count is None:
            return values[0]
        return {name: np.stack([each[name] for each in values]) for name in values[0]}

    def slice(self, kernel: Any, index: int) -> Any:
        """Return one kernel of a stack, with its axes unchanged."""
        places = iter(np.unravel_index(index, [self.shape[i] for i in self.stack]))
        axes = range(len(self.shape))
        return kernel[tuple(int(next(places)) if i in self.stack else slice(None) for i in axes)]

    def slice_to_matrix(self, kernel: np.ndarray) -> np.ndarray:
        """Return a result of `slice` as an `(m, n)` matrix."""
        left = [i for i in range(len(self.shape)) if i not in self.stack]
        order = [left.index(i) for i in self.rows + self.columns]
        return kernel.transpose(order).reshape(self.m, self.n)

    @cached_property
    def _order(self) -> Shape:
        return self.stack + self.rows + self.columns

    @cached_property
    def _is_matrix(self) -> bool:
        return self.shape == self.matrix_shape and self._order == tuple(range(len(self.shape)))

    def flatten_input(self, x: Any) -> Any:
        """Return an input of the layer as `(..., m)`."""
        return _gather_axes(x, self.input_axes)

    def unflatten_input(self, x: Any) -> Any:
        """Return a `(..., m)` tensor in the layout of the layer's input."""
        return _scatter_axes(x, self.input_axes, tuple(self.shape[i] for i in self.rows))

    def flatten_output(self, y: Any) -> Any:
        """Return an output of the layer as `(..., n)`."""
        return _gather_axes(y, self.output_axes)

    def unflatten_output(self, y: Any) -> Any:
        """Return a `(..., n)` tensor in the layout of the layer's output."""
        return _scatter_axes(y, self.output_axes, tuple(self.shape[i] for i in self.columns))

    def output_rows(self, y: Any) -> Any:
        """Return an output of the layer as `(rows, n)`, by one operation if it is enough."""
        if are_last(self.output_axes):
            return y if len(y.shape) == 2 else reshape(y, (-1, self.n))
        return as_rows(self.flatten_output(y))

    def output_from_rows(self, y: Any, leading: tuple[Any, ...]) -> Any:
        """Return `(rows, n)` in the layout of the layer's output, whose other axes are given."""
        if are_last(self.output_axes):
            sizes = tuple(self.shape[i] for i in self.columns)
            return y if len(leading) == len(sizes) == 1 else reshape(y, (*leading, *sizes))
        return self.unflatten_output(reshape(y, (*leading, self.n)))
