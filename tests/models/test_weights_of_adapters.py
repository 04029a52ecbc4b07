"""Several adapters with weights in a model: traces, training, and what is asked for wrongly."""

import keras
import numpy as np
import pytest
from cases import numpy, shake
from mixed_batch import batch, small
from snapshots import refused, values

import keras_svd_adapters as ksa
from keras_svd_adapters import methods
from keras_svd_adapters.models.sites.search import adapted_sites


def with_three(train=None):
    """A model with adapters `a` and `b` on the same layers, and `c` on another one too."""
    model, both = small(), ["out", "square"]
    for name, targets in (("a", both), ("b", both), ("c", [*both, "heads"])):
        ksa.enable(model, ksa.LoRA(rank=2), targets, name=name, train=train)
        shake(model, 0.3, seed=ord(name))
    return model


def y(model, x=None):
    return numpy(model(batch() if x is None else x))


@pytest.mark.parametrize("loop", ["predict", "fit", "evaluate"])
def test_other_weights_trace_nothing(loop):
    traced, x, target = [], batch(), np.zeros((5, 6, 4), "float32")

    class Watch(keras.layers.Layer):
        def call(self, x):
            traced.append(1)
            return x

    model = keras.Sequential([keras.Input((6, 10)), Watch(), keras.layers.Dense(4, name="up")])
    for name in "ab":
        ksa.enable(model, ksa.LoRA(rank=2), "up", name=name)
        shake(model, 0.3, seed=ord(name))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    run = {
        "predict": lambda: np.mean(model.predict(x, verbose=0) ** 2),
        "fit": lambda: model.fit(x, target, verbose=0).history["loss"][0],
        "evaluate": lambda: model.evaluate(x, target, verbose=0),
    }[loop]
    found = []
    for weights in ({"a": 0.4, "b": 1.0}, {"b": 0.0, "a": 0.0}, {"a": -0.5, "b": 2.0}):
        ksa.set_adapter(model, weights, train="b")
        traced.clear()
        found.append(run())
        if len(found) > 1 and keras.backend.backend() != "torch":
            assert not traced
        np.testing.assert_allclose(found[-1], np.mean(y(model) ** 2), rtol=1e-4)
    assert np.ptp(found) > 1e-3


def test_switching_back_and_forth_is_right():
    model = with_three()
    model.compile(run_eagerly=False)
    for name in ({"a": 0.4, "b": 1.0}, "a", {"a": -1.0, "b": 0.5}):
        ksa.set_adapter(model, name)
        np.testing.assert_allclose(model.predict(batch(), verbose=0), y(model), rtol=0, atol=1e-5)


def test_which_of_them_train():
    model = with_three()
    target, weights = np.zeros((5, 6, 7), "float32"), {"a": 0.4, "b": 1.0}
    ksa.set_adapter(model, weights)
    assert not model.trainable_weights
    model.compile(keras.optimizers.SGD(0.1), "mse")
    with pytest.raises(
        ValueError, match="weights are frozen.*train='b'.*Received: a call of `fit`"
    ):
        model.fit(batch(), target, verbose=0)
    for train, trained in (("a", "a"), (["a", "b"], "ab"), ("b", "b")):
        model.compile()  # with an optimizer that has no state to lose
        ksa.set_adapter(model, weights, train=train)
        paths = {weight.path for weight in model.trainable_weights}
        assert all(f"adapter_{n}" in " ".join(paths) for n in trained)
        before = values(model.weights)
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.fit(batch(), target, verbose=0)
        after = values(model.weights)
        assert {path for path in after if np.any(after[path] != before[path])} == paths
        assert len(paths) == 4 * len(trained)


def test_a_weight_that_one_of_them_trains():
    """It trains with its adapter, and keeps its values while that is frozen."""
    model = small()
    ksa.enable(model, ksa.LoRA(rank=2), "square", name="a")
    ksa.enable(model, ksa.LoRA(rank=2), "square", name="b", train="head")
    head = model.get_layer("head").kernel
    for train, trains in (("b", True), ("a", False), (None, False)):
        ksa.set_adapter(model, {"a": 1.0, "b": 1.0}, train=train)
        assert head.trainable == trains
        assert any(weight is head for weight in model.trainable_weights) == trains


def test_a_weight_that_both_train_is_refused():
    model = with_three(train="head")
    ksa.set_adapter(model, "a")
    with refused(model, "A weight has the values of one adapter at a time"):
        ksa.set_adapter(model, {"a": 1.0, "b": 0.5})
    with refused(model, "A weight has the values of one adapter at a time"):
        ksa.predict(model, batch(), adapter_weights={"a": [0.0] * 5, "b": 1.0})


def test_a_layer_without_one_of_them():
    model = with_three()
    ksa.set_adapter(model, {"b": 0.0, "c": 1.0})
    found = y(model)
    ksa.set_adapter(model, "c")
    np.testing.assert_array_equal(found, y(model))
    ksa.set_adapter(model, {"a": 0.0})
    found = y(model)
    ksa.set_adapter(model, None)
    np.testing.assert_array_equal(found, y(model))


def test_verbs_go_along():
    model = with_three()
    plain = len(model.weights)
    ksa.set_adapter(model, None)
    base = y(model)
    ksa.set_adapter(model, {"a": 0.4, "b": 1.0}, train="b")
    assert len(model.weights) == plain + 1
    mixed = y(model)
    with ksa.disabled(model):
        np.testing.assert_array_equal(y(model), base)
    active = {row[0]: row[-1] for row in ksa.status(model).adapters}
    assert active == {"a": "0.4", "b": "1, trains", "c": "no"}
    assert ksa.coefficients(model, cache=False).kernels
    ksa.delete_adapter(model, "c")
    np.testing.assert_array_equal(y(model), mixed)
    ksa.delete_adapter(model, "b")
    only = y(model)
    ksa.set_adapter(model, {"a": 0.4})
    np.testing.assert_array_equal(y(model), only)
    ksa.enable(model, ksa.SVF(), "square", name="d")
    square, out = (next(s for s in adapted_sites(model) if s.name == n) for n in ("square", "out"))
    assert square.layer.active_adapters == ("d",)
    assert out.layer.active_adapters == ("a",)
    ksa.set_adapter(model, "a")
    for name in "ad":
        ksa.delete_adapter(model, name)
    np.testing.assert_array_equal(y(model), base)
    assert not any("adapter" in weight.path for weight in model.weights)


BAD = {
    "nothing": ({}, None, "Name at least one adapter"),
    "unknown": ({"a": 1.0, "bb": 1.0}, None, "no such adapter. It has .*Did you mean 'b'"),
    "no number": ({"a": "much"}, None, "is a finite number"),
    "a truth": ({"a": True}, None, "is a finite number"),
    "not finite": ({"a": 1.0, "b": float("nan")}, None, "is a finite number"),
    "infinite": ({"a": np.inf}, None, "is a finite number"),
    "no name": ({1: 1.0}, None, "belong to names of adapters"),
    "trains without a weight": ({"a": 1.0}, "b", "`train` names adapters that have a weight"),
    "trains no name": ({"a": 1.0}, 3, "`train` names adapters that have a weight"),
    "trains without weights": ("a", "a", "`train` goes with weights"),
    "two without weights": (["a", "b"], None, "'a': 1.0, 'b': 1.0"),
}


@pytest.mark.backend_free("messages are made of names")
@pytest.mark.parametrize("before", ["a", {"a": 0.5, "b": 0.5}], ids=["one", "weights"])
@pytest.mark.parametrize(("name", "train", "match"), BAD.values(), ids=BAD)
def test_bad_weights(name, train, match, before):
    model = with_three()
    ksa.set_adapter(model, before)
    with refused(model, match):
        ksa.set_adapter(model, name, train)


L = keras.layers


def recurrent():
    return keras.Sequential([keras.Input((4, 6)), L.LSTM(5)]), ["kernel", "recurrent_kernel"]


def table():
    model = keras.Sequential([keras.Input((6,), dtype="int32"), L.Embedding(11, 8), L.Dense(4)])
    return model, ["embedding", "dense"]


def convolutions():
    model = keras.Sequential([keras.Input((5, 5, 3)), L.Conv2D(4, 2), L.SeparableConv2D(3, 2)])
    return model, ["conv2d", "pointwise_kernel"]


def quantized():
    model = small()
    model.quantize("int8", filters="heads|square")
    return model, ["heads", "square"]


KINDS = {
    "recurrent": (recurrent, ksa.SVF()),
    "embedding": (table, ksa.LoRA(rank=2)),
    "embedding, DoRA": (table, ksa.DoRA(rank=2)),
    "convolutions": (convolutions, ksa.LoRA(rank=2)),
    "convolutions, SVF": (convolutions, ksa.SVF()),
    "convolutions, IA3": (convolutions, methods.IA3(side="input")),
    "quantized": (quantized, ksa.SVF()),
    "biases": (lambda: (small(), None), methods.BitFit()),
}


@pytest.mark.parametrize(("build", "method"), KINDS.values(), ids=KINDS)
def test_other_layers(build, method):
    keras.utils.set_random_seed(2)
    model, targets = build()
    shape = (3, *model.input_shape[1:])
    rng = np.random.default_rng(3)
    x = rng.integers(11, size=shape) if len(shape) == 2 else rng.normal(size=shape)
    x = x.astype(model.inputs[0].dtype)
    for name in "ab":
        ksa.enable(model, method, targets, name=name, cache=False)
        shake(model, 0.3, seed=ord(name))
    alone = {}
    for name in ("a", "b", None):
        ksa.set_adapter(model, name)
        alone[name] = y(model, x)
    assert np.abs(alone["a"] - alone["b"]).max() > 1e-3
    for name, each in alone.items():
        weights = {other: float(other == name) for other in "ab"}
        ksa.set_adapter(model, weights, train=name)  # PyTorch may round otherwise without gradients
        np.testing.assert_array_equal(y(model, x), each)
    ksa.set_adapter(model, {"a": 0.4, "b": -0.7})
    found = y(model, x)
    np.testing.assert_allclose(model.predict(x, verbose=0), found, rtol=0, atol=1e-5)
    ksa.merge(model, quantized="float" if build is quantized else None)
    np.testing.assert_allclose(y(model, x), found, rtol=0, atol=0.1 if build is quantized else 2e-5)
    assert np.abs(found - alone[None]).max() > 1e-2
