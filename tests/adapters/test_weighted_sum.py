"""Two adapters of a layer with weights: their sum, and the bits of each alone."""

import keras
import numpy as np
import pytest
from cases import (
    DTYPES,
    EVERY_METHOD,
    KERNELS,
    METHODS,
    SQUARE,
    batch,
    build_layer,
    combinations,
    dense,
    numpy,
    shake,
)

import keras_svd_adapters as ksa
from keras_svd_adapters import methods
from keras_svd_adapters.adapters.carried import adapters_of

# what a method adds: a product, a shift of the inputs or a change of the kernel; or outputs
OTHERS = [ksa.LoRA(rank=2), ksa.SVF(), methods.DiffPruning(), ksa.DoRA(rank=2)]
WEIGHTS = {"a": 0.4, "b": -1.5}
OFF = {"a": 0.0, "b": 0.0}
TOLERANCE = {"float32": 1e-5, "mixed_bfloat16": 2e-2, "bfloat16": 2e-2}


def with_two(method, other, build, dtype="float32"):
    """A layer without an activation that has the adapters `a` and `b`, away from their starts."""
    layer = build_layer(build, dtype)
    layer.activation = keras.activations.linear
    for name, each in (("a", method), ("b", other)):
        ksa.enable(layer, each, name=name, cache=False)
        shake(layer, seed=ord(name))
    return layer


def outputs(layer, x, name):
    ksa.set_adapter(layer, name)
    return numpy(layer(x))


def exact(layer, x, weights):
    """The outputs in float64, by the kernel with the sum of the changes."""
    kernel = layer.base_kernel_value()
    deltas = {name: adapters_of(layer)[name].delta(kernel) for name in weights}
    K = numpy(kernel).astype("float64")
    K = K + sum(weight * numpy(deltas[name]) for name, weight in weights.items())
    equation = getattr(layer, "equation", None)
    y = x @ K if equation is None else np.einsum(equation, x.astype("float64"), K)
    return y if layer.bias is None else y + numpy(layer.bias)


def check(layer, x, dtype="float32", steps=0):
    alone = {name: outputs(layer, x, name) for name in ("a", "b", None)}
    assert all(np.any(alone[name] != alone[None]) for name in "ab")
    for name in alone:
        found = outputs(layer, x, {**OFF, **({name: 1.0} if name else {})})
        step = steps * np.abs(found).max() / 128
        np.testing.assert_allclose(found, alone[name], rtol=0, atol=step, err_msg=str(name))
    found = outputs(layer, x, WEIGHTS)
    if any(adapter.method.depends_on_input for adapter in adapters_of(layer).values()):
        return alone, found
    right = exact(layer, numpy(keras.ops.cast(x, layer.compute_dtype)), WEIGHTS)
    assert np.abs(found - right).max() <= TOLERANCE[dtype] * 2 * np.abs(right).max()
    return alone, found


ROWS = [
    pytest.param(
        EVERY_METHOD[name], *KERNELS[kernel], dtype, OTHERS[i % 4], id=f"{name}-{i % 4}-{dtype}"
    )
    for i, (name, kernel, dtype) in enumerate(
        combinations(
            [name for name, case in EVERY_METHOD.items() if not case.variant],
            KERNELS,
            DTYPES,
            fits=lambda name, kernel, _: kernel in SQUARE or not EVERY_METHOD[name].square_only,
        )
    )
]


@pytest.mark.parametrize(("case", "build", "shape", "dtype", "other"), ROWS)
def test_methods(case, build, shape, dtype, other):
    layer = with_two(case.method, other, build, dtype)
    alone, found = check(layer, batch(shape), dtype)
    if dtype == "float32":  # affine in the weights
        base = alone[None].astype("float64")
        expected = base + sum(w * (alone[name] - base) for name, w in WEIGHTS.items())
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["svf", "tri_lora"])
def test_many_tokens(name, dtype):
    """Some methods compute otherwise for many tokens."""
    build, _ = dense(16, 16)
    for other in OTHERS[:2]:
        layer = with_two(METHODS[name].method, other, build, dtype)
        check(layer, batch((300, 16)), dtype, steps=dtype != "float32")


PRODUCTS = {
    "products": (ksa.LoRA(rank=2), ksa.VeRA(rank=3), 1),
    "shifts": (ksa.SVF(), ksa.SVF(), 1),
    "changes": (methods.DiffPruning(), methods.DiffPruning(), 1),
    "shift and product": (ksa.SVF(), ksa.LoRA(rank=2), 1),
    "outputs": (ksa.DoRA(rank=2), ksa.DoRA(rank=2), 1),
    "shift and change": (ksa.SVF(), methods.DiffPruning(), 3),
}


@pytest.mark.parametrize(("one", "other", "count"), PRODUCTS.values(), ids=PRODUCTS)
def test_products_with_the_kernel(one, other, count, monkeypatch):
    """The layer multiplies by its kernel once, as with one adapter, where that is possible."""
    layer, counted = with_two(one, other, dense(12, 40)[0]), []
    check(layer, batch((5, 12)))
    product = type(layer)._product
    monkeypatch.setattr(type(layer), "_product", lambda *args: counted.append(1) or product(*args))
    layer(batch((5, 12)))
    assert len(counted) == count


def test_a_weight_for_each_row():
    """The sum takes weights of any number of rows: of samples, or of tokens."""
    from keras_svd_adapters.adapters.operation import Operation
    from keras_svd_adapters.adapters.weighted.weighted_sum import weighted_sum

    for method in (ksa.LoRA(rank=2), ksa.SVF(), ksa.DoRA(rank=2), methods.DiffPruning()):
        layer = with_two(method, ksa.LoRA(rank=3), dense(12, 40)[0])
        x, K = keras.ops.convert_to_tensor(batch((6, 12))), layer.base_matrix()
        run = lambda x, d=None: x @ (K if d is None else K + d)  # noqa: B023, E731
        base = Operation(run, lambda x, A: x @ A, (12, 40), 6, layer.base_matrix)
        tokens = batch((3, 2), seed=5)
        weights = {"a": keras.ops.convert_to_tensor(tokens), "b": keras.ops.ones((3,))}
        found = numpy(weighted_sum(x, base, adapters_of(layer), weights, False))
        for row, weight in enumerate(tokens.ravel()):
            right = exact(layer, numpy(x)[row : row + 1], {"a": float(weight), "b": 1.0})
            right = right - numpy(layer.bias)
            np.testing.assert_allclose(found[row : row + 1], right, rtol=0, atol=1e-5)
