"""Methods that multiply a kernel by an orthogonal matrix."""

import keras
import numpy as np
import pytest
from autodiff import gradients
from cases import KERNELS, adapted, batch, build_layer, close, dense, numpy, shake
from closed_forms_multiplicative import boft, hra, oft
from method_case import MethodCase
from test_gradient import test_against_closed_form as check_against_closed_form

import keras_svd_adapters as ksa
from keras_svd_adapters import methods
from keras_svd_adapters.methods import cayley

CASES = {
    "oft": MethodCase(methods.OFT(block_size=8), oft),
    "oft_shared": MethodCase(methods.OFT(block_size=4, shared_blocks=True), oft),
    "oft_whole": MethodCase(methods.OFT(block_size=16), oft),
    "boft": MethodCase(methods.BOFT(), boft),
    "boft_two": MethodCase(methods.BOFT(factors=2), boft),
    "boft_three": MethodCase(methods.BOFT(factors=3), boft),
    "boft_halves": MethodCase(methods.BOFT(block_size=2, factors=4), boft),
    "boft_wide": MethodCase(methods.BOFT(block_size=8, factors=2), boft),
    "hra": MethodCase(methods.HRA(rank=8), hra),
    "hra_orthogonal": MethodCase(methods.HRA(rank=5, orthogonal=True), hra),
}
ROWS = [
    pytest.param(case, *KERNELS[kernel], id=f"{name}-{kernel}")
    for name, case in CASES.items()
    for kernel in ("square", "btnh,nhd->btd")
]
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@pytest.mark.parametrize(("case", "build", "shape"), ROWS)
def test_larger_blocks_against_closed_form(case, build, shape):
    check_against_closed_form(case, build, shape)


@every_case
def test_starts_at_the_base_and_keeps_angles(case):
    """K^T K stays, up to the scale of the outputs."""
    base, x = build_layer(dense(16, 12)[0]), batch((5, 16))
    before, K = numpy(base(x)), numpy(base.kernel).astype("float64")
    layer = adapted(case, base)
    np.testing.assert_array_equal(numpy(layer(x)), before)
    shake(layer, 0.5)
    merged = numpy(layer.merged_kernel()).astype("float64")
    assert np.abs(merged - K).max() > 0.1
    scale = layer.base_layer.adapter().arrays.get("scale")
    merged = merged if scale is None else merged / numpy(scale)
    close(merged.T @ merged, K.T @ K, 1e-5)


@every_case
def test_all_forms_compute_the_same(case):
    """Beside a quantized kernel, at the input, at the kernel."""
    found = []
    for form in case.method.forms:
        layer = keras.layers.Dense(12)
        layer.build((None, 16))
        layer.kernel.assign(batch((16, 12)))
        keras.utils.set_random_seed(1)
        ksa.enable(layer, forced(case.method, form))
        shake(layer)
        found.append(numpy(layer(batch((5, 16)))))
        assert layer.adapter().form == form
        close(found[-1], found[0], 1e-5)


def forced(method, form):
    """Return a copy of a method with this form for every kernel."""
    copy = type(method)(**method.get_config())
    object.__setattr__(copy, "form", lambda m, n, s=None: form)
    return copy


@pytest.mark.parametrize(
    ("method", "size", "words"),
    [
        (
            methods.OFT(),
            48,
            "48 inputs.*use `block_size=24` or `block_size=48`, .*block_size=32$",
        ),
        (methods.OFT(), 384, None),
        (methods.OFT(block_size=4), 7, "use `block_size=7`, or leave.*block_size=4$"),
        (methods.OFT(block_size=2), 1, "no block size does; leave.*block_size=2$"),
        (methods.BOFT(), 18, "use `block_size=2` or `block_size=6`, .*block_size=4$"),
        (methods.BOFT(), 15, "no block size does; .*block_size=4$"),
        (
            methods.BOFT(factors=3),
            24,
            "times 4, for 3 factors.*`block_size=2` or .*6.*, factors=3$",
        ),
        (methods.BOFT(factors=3), 16, None),
        (methods.HRA(rank=8), 7, "has 7 inputs: use `rank=6` or less.*rank=8$"),
        (methods.HRA(rank=8, orthogonal=True), 7, "use `rank=7` or less.*rank=8$"),
    ],
    ids=str,
)
def test_sizes_that_do_not_suit(method, size, words):
    layer = keras.layers.Dense(3)
    layer.build((None, size))
    if words is None:
        ksa.enable(layer, method)
        return
    with pytest.raises(ValueError, match=words):
        ksa.enable(layer, method)
    assert type(layer) is keras.layers.Dense


def test_an_embedding_is_refused():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Embedding(8, 4, name="table")])
    for method in (
        methods.OFT(block_size=2),
        methods.BOFT(block_size=2),
        methods.HRA(rank=2),
    ):
        with pytest.raises(ValueError, match="adapt an embedding(.|\n)*Received: "):
            ksa.enable(model, method, targets="table")


def test_neither_rotations_nor_reflections_add_up():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6, name="one")])
    for name in "ab":
        ksa.enable(model, methods.OFT(block_size=4), targets="one", name=name)
        shake(model)
    with pytest.raises(ValueError, match="Received: "):
        ksa.combine(model, {"a": 1, "b": 1}, into="both", how="linear")


class Rotations(keras.layers.Layer):
    """The Cayley map of trained triangles."""

    def __init__(self, shape):
        super().__init__()
        self.skew = self.add_weight(shape=shape)
        self.built = True

    def call(self, x):
        return cayley.cayley_change(keras.ops.convert_to_tensor(self.skew), 8) * x


@pytest.mark.parametrize("size", [0.0, 0.01, 1.0, 10.0])
def test_rotations_of_any_size(size):
    """The Cayley map and its gradient, for small and large entries."""
    skew = size * np.random.default_rng(1).normal(size=(3, 28)).astype("float32")
    G = np.random.default_rng(2).normal(size=(3, 8, 8)).astype("float32")
    layer = Rotations(skew.shape)
    layer.set_weights([skew])
    (found,) = gradients(layer, np.ones(1, "float32"), G)
    S = numpy(cayley.skew_matrix(keras.ops.convert_to_tensor(skew), 8)).astype("float64")
    inverse = np.linalg.inv(np.eye(8) + S)
    turned = inverse.transpose(0, 2, 1)
    full = -2 * turned @ G @ turned
    rows, columns = np.triu_indices(8, 1)
    expected = (full - full.transpose(0, 2, 1))[:, rows, columns]
    close(found, expected, 2e-5)
    np.testing.assert_allclose(numpy(layer(np.ones(1))), -2 * inverse @ S, atol=2e-5)


def test_blocks_need_no_lapack_on_jax():
    """On a host, several batched calls of LAPACK in one program wait for each other forever."""
    assert keras.backend.backend() != "jax" or "lapack" not in lowered_cayley()


def lowered_cayley():
    import jax

    step = jax.value_and_grad(lambda skew: keras.ops.sum(cayley.cayley_change(skew, 8)))
    return jax.jit(step).lower(np.zeros((3, 28), "float32")).as_text()
