"""The rows of prompts: where they start, what they are, how they learn."""

import keras
import numpy as np
import pytest
from autodiff import gradients
from cases import batch, close, numpy, shake

import keras_svd_adapters as ksa
from keras_svd_adapters.methods import CPT, PromptTuning, PTuning

ROWS, SIZE = 20, 6
IDS = (3, 19, 3, 7)
METHODS = {
    "prompt_tuning": PromptTuning(length=4),
    "p_tuning": PTuning(length=4, hidden=5),
    "cpt": CPT(IDS, radius=3.0, labels=[1]),
}


def relu(x):
    return np.maximum(x, 0)


def prompt(method, v, K):
    """The prompt in float64, from the arrays of its adapter."""
    if isinstance(method, PromptTuning):
        return v["prompt"]
    if isinstance(method, PTuning):
        h = relu(v["embedding"] @ v["kernel_1"] + v["bias_1"])
        return relu(h @ v["kernel_2"] + v["bias_2"]) @ v["kernel_3"] + v["bias_3"]
    shift, limit = v["shift"].copy(), method.radius * np.sqrt(SIZE / 2048)
    shift[list(method.labels)] = 0
    size = np.linalg.norm(shift, axis=1, keepdims=True)
    return K[list(method.ids)] + shift * np.minimum(1, limit / np.maximum(size, 1e-9))


def table(method, dtype="float32"):
    """A model that looks up rows, and its layer, which knows the ids of the prompt as well."""
    words = keras.layers.Embedding(ROWS, SIZE, name="words", dtype=dtype)
    model = keras.Sequential([keras.Input((None,), dtype="int32"), words])
    words.embeddings.assign(np.random.default_rng(5).normal(size=(ROWS, SIZE)))
    K = numpy(words.embeddings).astype("float64")
    ksa.enable(model, method)
    return model, words, K


def arrays(layer):
    return {name: numpy(v).astype("float64") for name, v in layer.adapter().arrays.items()}


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_the_rows_are_those_of_the_closed_form(method, dtype):
    model, layer, K = table(method, dtype)
    shake(model, 0.2)
    found = numpy(layer(np.arange(ROWS, ROWS + 4)))
    close(found, prompt(method, arrays(layer), K), 1e-5 if dtype == "float32" else 2e-2)
    with ksa.disabled(model):
        plain = numpy(layer(np.arange(ROWS)))
    np.testing.assert_array_equal(numpy(layer(np.arange(ROWS))), plain)
    assert not numpy(layer(np.array([ROWS + 4]))).any()


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_gradients(method):
    """Against differences of the closed form, in two directions."""
    model, layer, K = table(method)
    shake(model, 0.2)
    g = batch((4, SIZE)).astype("float64")
    found = gradients(layer, np.arange(ROWS, ROWS + 4), g.astype("float32"))
    v, names = arrays(layer), [weight.name for weight in layer.trainable_weights]
    for seed in (1, 2):
        rng = np.random.default_rng(seed)
        step = {name: rng.normal(size=v[name].shape) for name in names}
        up, down = (
            np.sum(g * prompt(method, v | {k: v[k] + e * step[k] for k in names}, K))
            for e in (1e-6, -1e-6)
        )
        slope = sum(np.sum(G * step[name]) for name, G in zip(names, found, strict=True))
        np.testing.assert_allclose(slope, (up - down) / 2e-6, rtol=1e-3, atol=1e-3)


def test_starts():
    K = np.random.default_rng(0).normal(3, 2, (5000, 8))

    def start(method):
        rng = np.random.default_rng(1)
        return method.first_values(K, "lookup", rng, None, None)["prompt"]

    found = start(PromptTuning(length=30))
    ids = [np.flatnonzero((row == K).all(axis=1)) for row in found]
    assert len({int(one) for (one,) in ids}) == 30
    np.testing.assert_array_equal(start(PromptTuning(5, start=[7, 2])), K[[7, 2, 7, 2, 7]])
    np.testing.assert_array_equal(start(PromptTuning(1, start=np.array([7, 2]))), K[[7]])
    assert 1.8 < start(PromptTuning(length=200, start="random")).std() < 2.2


def test_cpt_stays_in_its_ball():
    """Labels stay where they are, and other rows come to the edge of the ball."""
    method = CPT(IDS, radius=2.0, labels=(1,))
    _, layer, K = table(method)
    ids = np.arange(ROWS, ROWS + 4)
    np.testing.assert_array_equal(numpy(layer(ids)), K[list(IDS)].astype("float32"))
    outer = keras.Sequential([keras.Input((4,), dtype="int32"), layer])
    outer.compile(keras.optimizers.SGD(50.0), "mse")
    outer.fit(ids[None], np.zeros((1, 4, SIZE)), epochs=3, verbose=0)
    moved = np.linalg.norm(numpy(layer(ids)) - K[list(IDS)], axis=1)
    np.testing.assert_allclose(moved, np.sqrt(SIZE / 2048) * 2 * np.array([1, 0, 1, 1]), rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PromptTuning(length=0), "length=0"),
        (lambda: PromptTuning(start="text"), "start='text'"),
        (lambda: PromptTuning(start=[]), r"start=\[\]"),
        (lambda: PromptTuning(start=["cat"]), r"start=\['cat'\]"),
        (lambda: PromptTuning(after=-1), "after=-1"),
        (lambda: PTuning(hidden=0), "hidden=0"),
        (lambda: CPT([]), r"ids=\[\]"),
        (lambda: CPT([3], radius=0), "radius=0"),
        (lambda: CPT([3], labels=[1]), r"labels=\(1,\)"),
        (lambda: table(CPT([ROWS])), rf"ids=\({ROWS},\)"),
        (lambda: table(PromptTuning(start=[ROWS])), rf"ids=\({ROWS},\)"),
    ],
)
def test_bad_hyperparameters(make, words):
    with pytest.raises(ValueError, match=f"Received: {words}"):
        make()
