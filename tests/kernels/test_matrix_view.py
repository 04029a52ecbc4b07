"""A kernel as a matrix, for every equation that occurs in KerasHub."""

import keras
import numpy as np
import pytest

from keras_svd_adapters.kernels.matrix_view import KernelView

EQUATIONS = (
    *("abc,cde->abde", "abcd,cde->abe", "bqm,muh->bquh", "bkm,mvh->bkvh", "bquh,uhm->bqm"),
    *("btd,ndh->btnh", "bsd,kdh->bskh", "btnh,nhd->btd", "btd,df->btf", "btf,fd->btd"),
    *("btd,dnh->btnh", "bsd,dkh->bskh", "abc,cd->abd", "btm,mnh->btnh", "bsm,mnh->bsnh"),
    *("bqm,mnh->bqnh", "bkm,mnh->bknh", "ibnd,hnd->ibh", "bsd,qdh->bsqh", "abc,cdef->abdef"),
    *("ab,bc->ac", "...a,ab->...b", "abc,bd->adc"),
)
SIZES = {label: 2 + i % 4 for i, label in enumerate("abcdefhibkmnqstuv")}


def shape_of(labels):
    leading = [5, 6] if "." in labels else []
    return leading + [SIZES[label] for label in labels if label != "."]


@pytest.mark.parametrize("equation", EQUATIONS)
def test_einsum_is_a_matrix_product(equation):
    rng = np.random.default_rng(0)
    inputs = equation.split("->")[0]
    x, kernel = (rng.normal(size=shape_of(part)).astype("float32") for part in inputs.split(","))
    view = KernelView.from_equation(equation, kernel.shape)
    K = view.to_matrix(kernel)
    assert K.shape == (view.m, view.n)
    np.testing.assert_array_equal(view.from_matrix(K), kernel)
    rows = view.flatten_input(keras.ops.convert_to_tensor(x))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(view.unflatten_input(rows)), x)
    y = view.unflatten_output(keras.ops.matmul(rows, K))
    expected = np.einsum(equation, x, kernel)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(y), expected, atol=1e-4)
    back = view.unflatten_output(view.flatten_output(y))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(back), keras.ops.convert_to_numpy(y))


@pytest.mark.parametrize(
    "equation",
    ["abc,bcd->abd", "ab,bc->a", "ab,cd->acd", "ab...,bc->ac...", "abc,cd->bad", "abc,cd->ad"],
)
def test_other_equations_are_refused(equation):
    with pytest.raises(ValueError, match="Received: equation="):
        KernelView.from_equation(equation, (2, 3, 4)[: len(equation.split(",")[1].split("->")[0])])
