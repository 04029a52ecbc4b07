"""Random bases: one set for a model, made again from a seed, the same numbers everywhere."""

import keras
import numpy as np
import pytest
from cases import batch, build_layer, dense, numpy, shake, wrapped_layer
from snapshots import snapshot

import keras_svd_adapters as ksa
from keras_svd_adapters import methods
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.files.archive import read_archive
from keras_svd_adapters.methods.random_bases import PortableRandom
from keras_svd_adapters.models.sites.search import adapted_sites

RANDLORA = methods.RandLoRA(rank=5)
NOLA = methods.NOLA(rank=2, bases=7)
backend_free = pytest.mark.backend_free("numbers of NumPy")
rows = pytest.mark.parametrize(
    ("method", "shapes"),
    [
        (RANDLORA, {"basis": (20, 15), "basis_in": (12, 5), "basis_out": (5, 9)}),
        (NOLA, {"fixed_a": (20, 2), "bases_a": (20, 2, 7), "bases_b": (20, 2, 7)}),
    ],
    ids=["randlora", "nola"],
)


def build():
    """Kernels of shapes (8, 12), (12, 20), (20, 9)."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(n, "tanh", name=f"hidden_{n}") for n in (12, 20, 9)]
    return keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(3, name="head")])


@rows
def test_a_model_has_one_set_that_holds_its_largest_kernel(method, shapes):
    model, plan = build(), ksa.plan(build(), method)
    ksa.enable(model, method)
    frozen = {w.name: tuple(w.shape) for w in model.non_trainable_weights}
    assert {name: shape for name, shape in frozen.items() if name in shapes} == shapes
    assert len(model.non_trainable_weights) == 8 + len(shapes)  # kernels, biases and the set
    own = [adapters_of(site.layer)["default"].arrays for site in adapted_sites(model)]
    assert all(v.trainable for arrays in own for v in arrays.values())
    assert plan.frozen_bytes == 4 * sum(int(np.prod(shape)) for shape in shapes.values())


@rows
def test_files_hold_the_seed(method, shapes, tmp_path):
    model, x = build(), batch((4, 8))
    ksa.enable(model, method)
    shake(model)
    ksa.save_adapter(model, tmp_path / "a.keras")
    stored = read_archive(tmp_path / "a.keras").values
    assert not [key for key in stored if key.rpartition("/")[2] in shapes]
    loaded = build()
    ksa.load_adapter(loaded, tmp_path / "a.keras")
    np.testing.assert_array_equal(numpy(loaded(x)), numpy(model(x)))


@rows
def test_larger_kernels_need_the_same_call(method, shapes):
    model = build()
    ksa.enable(model, method, targets="hidden_12")
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"larger kernels first.*Received: "):
        ksa.enable(model, method, targets="hidden_9", name="other")
    assert snapshot(model) == before


@backend_free
def test_the_numbers_are_the_same_everywhere():
    found = {
        **RANDLORA.start_shared({"basis": (20, 15), "basis_in": (12, 5)}),
        **NOLA.start_shared({"fixed_a": (20, 2), "bases_a": (20, 2, 7), "bases_b": (9, 2, 7)}),
        "sparse": methods.RandLoRA(sparse=True).start_shared({"basis": (20, 32)})["basis"],
        "normal": PortableRandom(3).normal((2, 3)),
    }
    for name, value in found.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value.ravel()[:3], np.float32(GOLDEN[name]), name)


GOLDEN = {
    "basis": [-1.6920517683029175, -0.8952998518943787, -1.3460603952407837],
    "basis_in": [1.085490107536316, 0.8706374764442444, 0.5946096777915955],
    "fixed_a": [-0.9769065380096436, -0.5169016122817993, -0.7771483659744263],
    "bases_a": [0.6267080307006836, 0.5026627779006958, 0.343298077583313],
    "bases_b": [0.6288671493530273, -0.12063848972320557, -0.40056002140045166],
    "sparse": [-1.7320507764816284, -0.0, -1.7320507764816284],
    "normal": [0.363432914018631, -1.7889262437820435, -0.6849804520606995],
}


@backend_free
def test_the_bases_have_their_spread():
    for sparse in (False, True):
        values = methods.RandLoRA(sparse=sparse).start_shared({"basis": (300, 320)})["basis"]
        assert abs(values.std() - 1) < 0.01
        assert abs(values.mean()) < 0.01
        assert abs((values == 0).mean() - (2 / 3 if sparse else 0)) < 0.01
    streams = [PortableRandom(0, stream).uniform((1000,)) for stream in (0, 1)]
    assert abs(np.corrcoef(streams)[0, 1]) < 0.1
    normal = PortableRandom(5).normal((100, 1000))
    assert abs(normal.mean()) < 0.02
    assert abs(normal.std() - 1) < 0.01
    assert abs((np.abs(normal) < 1).mean() - 0.6827) < 0.01


@backend_free
def test_randlora_has_one_matrix_for_kernels_of_both_sides():
    shapes = {"basis": (20, 15), "basis_in": (12, 5), "basis_out": (5, 9)}
    both = RANDLORA.start_shared(shapes)
    assert {name: value.shape for name, value in both.items()} == shapes
    np.testing.assert_array_equal(both["basis_in"][:9], both["basis_out"].T)


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (16, 16)])
def test_randlora_has_full_rank(shape):
    build, _ = dense(*shape)
    layer = wrapped_layer(RANDLORA, build_layer(build))
    before = numpy(layer.base_layer.kernel)
    shake(layer)
    change = numpy(layer.merged_kernel()) - before
    assert np.linalg.matrix_rank(change, tol=1e-4) == min(shape)


@backend_free
def test_a_higher_rank_of_randlora_trains_fewer_values():
    counts = [methods.RandLoRA(rank=r).trainable_count(768, 768) for r in (16, 32, 64)]
    assert counts == [48 * (16 + 768), 24 * (32 + 768), 12 * (64 + 768)]


@pytest.mark.parametrize(("tokens", "once"), [(2, False), (60, True)])
def test_many_tokens_of_randlora_make_the_change_once(tokens, once):
    asked = []

    class Base:
        shape = (40, 12)

        def __call__(self, x, delta=None):
            asked.append(delta.shape)

        def times(self, x, matrix):
            return keras.ops.matmul(x, matrix)

        def plus(self, x, h, matrix):
            return None

    layer = wrapped_layer(RANDLORA, build_layer(dense(40, 12)[0]))
    adapter, base = layer.base_layer.adapter(), Base()
    base.tokens = tokens
    adapter.adapt(keras.ops.ones((tokens, 40)), base, training=False)
    assert bool(asked) == once
