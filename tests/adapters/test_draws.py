"""Numbers that a method draws in training: from its own generator, and fixed at inference."""

import keras
import numpy as np
import pytest
from autodiff import gradients
from cases import batch, close, numpy, shake
from experts import TOKENS, WIDTH, experts

import keras_svd_adapters as ksa
from keras_svd_adapters import methods
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.in_training.draws import drawn
from keras_svd_adapters.models.sites.search import adapted_sites

METHODS = {
    "dylora": methods.DyLoRA(rank=4, alpha=6),
    "dylora_last": methods.DyLoRA(rank=4, last_alone=True),
    "diff_pruning": methods.DiffPruning(openness=0.5),
}
X, Y = batch((12, 8)), batch((12, 3), seed=4)


def build():
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(size, "tanh", name=f"hidden_{size}") for size in (10, 7)]
    return keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(3, name="head")])


def adapted(method, size=0.3):
    model = build()
    ksa.enable(model, method, "hidden_*")
    shake(model, size)
    model.compile(keras.optimizers.Adam(1e-3, name="adam"), "mse")
    return model


def adapters(model):
    return [adapters_of(site.layer)["default"] for site in adapted_sites(model)]


def next_numbers(adapter):
    """What the adapter will draw next; its generator stays as it is."""
    twin = keras.random.SeedGenerator(0)
    twin.state.assign(adapter.seed_generator.state)
    shapes = adapter.method.draws(adapter.view.m, adapter.view.n, adapter.form)
    return {name: numpy(value).astype("float64") for name, value in drawn(shapes, twin).items()}


def drawn_rank(numbers, rank):
    return rank - int(np.floor((numbers["turn"][0] + 0.5) % 1 * rank))


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_inference_is_deterministic(method):
    model = adapted(method)
    expected = numpy(model(X))
    states = [numpy(adapter.seed_generator.state) for adapter in adapters(model)]
    np.testing.assert_array_equal(numpy(model(X, training=False)), expected)
    assert np.ptp([numpy(model(X, training=True)) for _ in range(8)], axis=0).max() > 1e-2
    moved = [numpy(adapter.seed_generator.state) for adapter in adapters(model)]
    assert all(np.any(a != b) for a, b in zip(states, moved, strict=True))
    np.testing.assert_array_equal(numpy(model(X)), expected)
    close(model.predict(X, verbose=0), expected)
    close(ksa.predict(model, X, ["default"] * len(X)), expected)
    loss = model.evaluate(X, Y, verbose=0)
    assert loss == pytest.approx(model.evaluate(X, Y, verbose=0), rel=1e-6)
    ksa.merge(model)
    close(model.predict(X, verbose=0), expected)


def test_training_computes_with_the_drawn_numbers():
    layer = keras.layers.Dense(7, use_bias=False)
    layer.build((None, 8))
    kernel = numpy(layer.kernel).astype("float64")
    ksa.enable(layer, METHODS["diff_pruning"])
    shake(layer, 0.3)
    adapter = layer.adapter()
    v = {name: numpy(value).astype("float64") for name, value in adapter.arrays.items()}
    u = next_numbers(adapter)

    def gate(a, u):
        return np.clip(3 / (1 + np.exp(-(np.log(u) - np.log(1 - u) + a))) - 1.5, 0, 1)

    z = gate(v["log_alpha"], u["u"])
    assert (z == 0).any()
    assert (z == 1).any()
    assert ((z > 0) & (z < 1)).any()
    expected = X @ (kernel + gate(v["group"], u["u_group"]) * z * v["diff"])
    close(numpy(layer(X, training=True)), expected, 1e-5)


def test_ranks_are_drawn_alike_and_evenly():
    method = METHODS["dylora"]
    model, counts = adapted(method), np.zeros(method.rank)
    for _ in range(80):
        ranks = {drawn_rank(next_numbers(each), method.rank) for each in adapters(model)}
        assert len(ranks) == 1, "all kernels draw the same rank"
        counts[ranks.pop() - 1] += 1
        model(X[:1], training=True)
    assert counts.min() > 8


@pytest.mark.parametrize("name", ["dylora", "dylora_last"])
def test_a_rank_in_training_is_the_served_one(name):
    method = METHODS[name]
    model, seen = adapted(method), set()
    hidden, other = adapters(model)
    while len(seen) < method.rank:
        rank = drawn_rank(next_numbers(hidden), method.rank)
        found = gradients(model, X, Y, training=True)  # advances the generators, but not on JAX
        if keras.backend.backend() == "jax":
            model(X, training=True)
        if rank in seen:
            continue
        seen.add(rank)
        first = rank - 1 if method.last_alone else 0
        for weight, gradient in zip(model.trainable_weights, found, strict=True):
            rows = gradient.T if weight.name == "lora_a" else gradient
            trained = [i for i in range(method.rank) if np.any(rows[i])]
            assert trained == list(range(first, rank)), weight.path
        for adapter in (hidden, other):
            adapter.mask.assign(np.arange(method.rank) < rank)
        served = numpy(model(X))
        v = {name: numpy(value).astype("float64") for name, value in hidden.arrays.items()}
        alpha = method.alpha or method.rank
        delta = alpha / rank * v["lora_a"][:, :rank] @ v["lora_b"][:rank]
        close(numpy(hidden.delta(model.layers[0].base_kernel)), delta, 1e-5)
        for adapter in (hidden, other):
            adapter.mask.assign(np.ones(method.rank))
        for adapter in (hidden, other):
            adapter.seed_generator.state.assign(state_that_draws(adapter, rank))
        close(numpy(model(X, training=True)), served, 1e-5)


def state_that_draws(adapter, rank):
    twin = keras.random.SeedGenerator(5)
    while True:
        before = numpy(twin.state)
        turn = numpy(keras.random.uniform((1,), 1e-6, 1 - 1e-6, "float32", twin))
        if drawn_rank({"turn": turn}, adapter.method.rank) == rank:
            return before


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_resumed_is_uninterrupted(method, tmp_path):
    straight, model, other = adapted(method), adapted(method), adapted(method)
    for each in (straight, model, other):  # a generator of its own, as in another process
        for number, adapter in enumerate(adapters(each)):
            start = 0 if method.draws_alike else number
            adapter.seed_generator.state.assign([start, 0])
    straight.fit(X, Y, 4, 4, 0, shuffle=False)
    model.fit(X, Y, 4, 2, 0, shuffle=False)
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    other.optimizer.build(other.trainable_variables)
    other.load_weights(tmp_path / "m.weights.h5")
    for again in (keras.saving.load_model(tmp_path / "m.keras"), other):
        again.fit(X, Y, 4, 4, 0, shuffle=False, initial_epoch=2)
        for ours, theirs in zip(again.weights, straight.weights, strict=True):
            np.testing.assert_array_equal(numpy(ours), numpy(theirs), err_msg=ours.path)


def test_kernels_that_are_read_compute_with_fixed_numbers():
    layer, x = experts(), batch((TOKENS, WIDTH))
    with pytest.warns(UserWarning, match="train without the random numbers.*Received: "):
        ksa.enable(layer, methods.DyLoRA(rank=2))
    shake(layer)
    np.testing.assert_array_equal(numpy(layer(x, training=True)), numpy(layer(x)))


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_convolutions_draw(dtype):
    layer = keras.layers.Conv2D(4, 2, dtype=dtype)
    layer.build((None, 5, 5, 3))
    x = batch((2, 5, 5, 3))
    ksa.enable(layer, METHODS["diff_pruning"], targets="*")
    shake(layer, 0.3)
    inside = keras.Sequential([layer])
    still = numpy(inside(x))
    assert np.abs(numpy(inside(x, training=True)) - still).max() > 1e-2
    ksa.merge(layer)
    close(still, numpy(inside(x)), 2e-5 if dtype == "float32" else 2e-2)
