"""The arrays that a method declares for the kernel of a layer."""

from __future__ import annotations

from keras_svd_adapters.kernels.matrix_view import KernelView
from keras_svd_adapters.methods.contract import Array
from keras_svd_adapters.methods.method import Method


def declared_arrays(method: Method, view: KernelView, form: str) -> dict[str, Array]:
    """Return the arrays that a method declares for a kernel.

    For a stack of kernels, each array that is neither shared nor tied gets a leading axis for the
    stack.
    """
    arrays = method.arrays(view.m, view.n, form)
    if view.count is None:
        return arrays
    return {
        name: array
        if array.shared or name in method.tied
        else array._replace(shape=(view.count, *array.shape), axes=array.axes and "s" + array.axes)
        for name, array in arrays.items()
    }
