"""AM-LoRA: each layer attends to the outputs of its adapters, and the attention alone trains."""

import keras
import numpy as np
import pytest
from attention_models import with_two
from cases import METHODS, numpy, shake
from mixed_batch import adapted, batch, small
from prompted import language_model, several

import keras_svd_adapters as ksa

TARGETS = ["heads", "square"]


def biased(mixed, biases):
    for _, values in mixed.attention.pairs():
        values.assign(np.array(biases, "float32"))
    return mixed


def alone(model, active, x):
    ksa.set_adapter(model, active)
    return model.predict(x, verbose=0)


@pytest.mark.parametrize("name", ["lora", "svf", "dora", "ia3", "diff_pruning", "oft"])
def test_one_hot_is_that_adapter_and_the_start_is_the_mean(name):
    model = adapted(small(), METHODS[name].method, ksa.LoRA(rank=2), targets=TARGETS)
    expected = [alone(model, each, batch()) for each in ("a", "b", {"a": 1 / 3, "b": 1 / 3}, None)]
    mixed = ksa.AMLoRA(model, ["a", "b"])
    rows = [[40.0, 0.0, 0.0], [0.0, 40.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 40.0]]
    np.testing.assert_allclose(numpy(mixed(batch())), expected[2], rtol=0, atol=3e-5)
    for biases, wanted in zip(rows, expected, strict=True):
        found = numpy(biased(mixed, biases)(batch()))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=3e-5)


def test_the_equation():
    """In float64, with the penalty."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((5, 6)), keras.layers.Dense(4, name="up")])
    for seed, (name, method) in enumerate({"a": ksa.LoRA(rank=2), "b": ksa.SVF()}.items()):
        ksa.enable(model, method, targets="up", name=name)
        shake(model, size=1.0, seed=seed)
    x = np.random.default_rng(0).normal(size=(3, 5, 6))
    base, *changes = (alone(model, name, x) for name in (None, "a", "b"))
    changes = np.stack([each - base for each in changes], axis=-2).astype("float64")
    mixed = ksa.AMLoRA(model, ["a", "b"], penalty=0.25)
    queries = np.array([[0.3, -1.0, 0.8, 0.1], [0.5, 0.2, -0.4, 0.6]])
    biases = np.array([0.2, -0.5, 0.4])
    for variable, value in zip(mixed.trainable_variables, (queries, biases), strict=True):
        variable.assign(value)
    scores = np.concatenate([(changes * queries).sum(-1), np.zeros((3, 5, 1))], axis=-1) + biases
    powers = np.exp(scores / (1 + np.exp(-scores)))
    weights = (powers / powers.sum(axis=-1, keepdims=True))[..., :2]
    assert np.ptp(weights) > 0.2
    found = numpy(mixed(x))
    np.testing.assert_allclose(found, base + (changes * weights[..., None]).sum(-2), atol=1e-5)
    (norm,) = mixed.losses
    assert float(numpy(norm)) == pytest.approx(0.25 * np.abs(queries).sum(), rel=1e-5)


def test_the_attention_alone_trains_and_the_penalty_keeps_it_small():
    """The target is adapter b, so a has no part in it."""
    model = adapted(small(), ksa.LoRA(rank=2), targets=TARGETS)
    x, target = batch(), alone(model, "b", batch())
    before = [numpy(variable) for variable in model.variables]
    sizes = []
    for penalty in (0.0, 0.1):
        mixed = ksa.AMLoRA(model, ["a", "b"], penalty=penalty)
        mixed.compile(optimizer=keras.optimizers.Adam(0.1), loss="mse")
        losses = mixed.fit(x, target, epochs=15, verbose=0).history["loss"]
        sizes.append(sum(np.abs(numpy(queries)).sum() for queries, _ in mixed.attention.pairs()))
        if not penalty:
            assert losses[-1] < 0.3 * losses[0]
            biases = np.stack([numpy(values) for _, values in mixed.attention.pairs()])
            assert (biases[:, 1] > biases[:, 0] + 0.5).all()
    assert sizes[1] < 0.5 * sizes[0]
    for value, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, numpy(variable))


def test_kernels_with_one_adapter_or_none_of_them():
    model = adapted(small(), ksa.LoRA(rank=2), targets="square")
    ksa.enable(model, ksa.LoRA(rank=2), targets=["heads", "square"], name="c")
    shake(model, size=0.5)
    ksa.enable(model, ksa.LoRA(rank=2), targets="out", name="d")
    mixed = ksa.AMLoRA(model, ["a", "c"])
    assert [values.shape[0] for _, values in mixed.attention.pairs()] == [2, 3]
    mixed.attention.pairs()[0][1].assign([40.0, 0.0])
    mixed.attention.pairs()[1][1].assign([0.0, 40.0, 0.0])
    found = numpy(mixed(batch()))
    np.testing.assert_allclose(found, alone(model, "c", batch()), rtol=0, atol=3e-5)


def test_a_layer_that_reads_its_kernel():
    model = keras.Sequential([keras.Input((4, 6)), keras.layers.LSTM(5)])
    for name in "ab":
        ksa.enable(model, ksa.LoRA(rank=2), "kernel", name=name)
    with pytest.raises(ValueError, match=r"(?s)One adapter per sample.*Received: "):
        ksa.AMLoRA(model, ["a", "b"])(np.ones((2, 4, 6), "float32"))


@pytest.mark.backend_free("messages are made of names")
def test_adapters_that_changed_since():
    def delete(model):
        ksa.delete_adapter(model, "b")

    def move(model):
        ksa.delete_adapter(model, "b")
        ksa.enable(model, ksa.LoRA(rank=2), "heads", name="b")

    def merge(model):
        ksa.set_adapter(model, "a")
        ksa.merge(model)

    for change, match in [
        (delete, "no such adapter.*Received: name='b'"),
        (merge, "Received: name='[ab]'"),
        (move, "make a new `AMLoRA`.*Received: "),
    ]:
        model = adapted(small(), ksa.LoRA(rank=2), targets=TARGETS)
        mixed = ksa.AMLoRA(model, ["a", "b"])
        change(model)
        with pytest.raises(ValueError, match=rf"(?s){match}"):
            mixed(batch())


@pytest.mark.backend_free("messages are made of names")
def test_what_is_refused():
    model = adapted(small(), ksa.LoRA(rank=2), targets=TARGETS)
    for names, penalty, match in [
        (["a"], 0.0, "two adapters or more"),
        (["a", "c"], 0.0, "no such adapter"),
        (["a", "b"], -1.0, "`penalty` must not"),
    ]:
        with pytest.raises(ValueError, match=rf"(?s){match}.*Received: "):
            ksa.AMLoRA(model, names, penalty)
    attention = with_two(ksa.methods.PrefixTuning(3), ksa.LoRA(rank=2))
    with pytest.raises(ValueError, match="attention layer.*Received: 'a' on `attention_0`"):
        ksa.AMLoRA(attention, ["a", "b"])
    with pytest.raises(ValueError, match="prompt adds tokens.*Received: 'three', PromptTuning"):
        ksa.AMLoRA(several(language_model()), ["three", "lora"])
