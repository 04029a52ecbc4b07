"""Data that passes a model before the start, and what it finds for each kernel."""

import keras
import keras_hub
import models
import numpy as np
import pytest
import rate_models
from autodiff import gradients
from calibration import GRADIENT, INPUTS, found
from cases import numpy
from experts import experts
from tasks import task

import keras_svd_adapters as ksa
from keras_svd_adapters.models.assignment import choose_methods

RNG = np.random.default_rng(3)
X, Y = rate_models.data()


def check_inputs(inputs, rows, tolerance=1e-12):
    """The moments are those of some rows."""
    rows = rows.astype("float64")
    assert inputs.rows == len(rows)
    np.testing.assert_allclose(inputs.mean, rows.mean(axis=0), atol=tolerance)
    np.testing.assert_allclose(inputs.second, rows.T @ rows / len(rows), atol=tolerance)


def network(*layers, loss="mse"):
    model = keras.Sequential(layers)
    model.compile(optimizer="sgd", loss=loss)
    return model


@pytest.mark.parametrize("form", rate_models.forms_of_data())
def test_each_form_of_data(form):
    data = rate_models.forms_of_data()[form]()
    data = data if len(data) > 1 else data[0]
    model = rate_models.compiled("dropout and statistics")
    ((statistics,),) = found(model, INPUTS, data, "first").values()
    check_inputs(statistics.inputs, X)
    assert statistics.gradient is None


def test_inputs_after_other_layers():
    model = rate_models.compiled("dropout and statistics")
    statistics = found(model, INPUTS, X)
    (second,) = statistics["second"]
    before = keras.Model(model.inputs, model.get_layer("second").input)
    check_inputs(second.inputs, numpy(before(X, training=False)), 1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_gradient_is_that_of_the_mean_loss(weighted):
    """(X, y) of 48 samples: two batches of different sizes."""
    model = network(keras.Input((6,)), keras.layers.Dense(2, name="up"))
    weights = RNG.uniform(0.5, 1.5, len(X)) if weighted else np.ones(len(X))
    ((statistics,),) = found(model, GRADIENT, (X, Y, weights)[: 2 + weighted], "up").values()
    error = numpy(model(X)).astype("float64") - Y
    np.testing.assert_allclose(
        statistics.gradient, X.T @ (error * weights[:, None]) / len(X), atol=1e-6
    )


@pytest.mark.parametrize("factor", [1e-7, 1.0, 1e3])
def test_gradients_in_float16(factor):
    """A loss that is too small or too large for float16."""
    gradients, squares = [], []
    for dtype in ("float32", "mixed_float16"):
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(n, name=name, dtype=dtype) for n, name in ((8, "a"), (2, "b"))]
        model = network(
            keras.Input((6,)),
            *layers,
            loss=lambda y, p: factor * keras.losses.mean_squared_error(y, p),
        )
        statistics = found(model, GRADIENT, (X, Y), "a")
        gradients.append(statistics["a"][0].gradient / factor)
        report = ksa.observe(model, (X[:3], Y[:3]), "squared_gradients", targets="a", verbose=0)
        squares.append(report["a"].squared_gradients / factor**2)
    for pair in (gradients, squares):
        assert np.abs(pair[0]).max() > 0.01
        np.testing.assert_allclose(*pair, atol=0.01 * np.abs(pair[0]).max())


def test_the_gradient_through_a_whole_model():
    model, x = task()
    model.compile(loss="mse")
    y = RNG.normal(size=(2, 3)).astype("float32")
    statistics = found(model, GRADIENT, (x, y), "*attention*")
    gradient = 2 * (numpy(model(x)) - y) / y.size
    expected = dict(zip([w.path for w in model.trainable_weights], gradients(model, x, gradient)))
    assert len(statistics) == 8
    for site, _ in choose_methods(model, GRADIENT, "*attention*"):
        G = site.view.to_matrix(expected[site.layer.kernel.path])
        np.testing.assert_allclose(statistics[site.path][0].gradient, G, atol=1e-6)


def test_an_image():
    layer = keras.layers.Conv2D(4, (2, 3), strides=(1, 2), name="filter")
    model = network(keras.Input((5, 7, 3)), layer, keras.layers.GlobalAveragePooling2D())
    x, y = RNG.normal(size=(4, 5, 7, 3)).astype("float32"), np.ones((4, 4), "float32")
    patches = [x[:, i : i + 2, j : j + 3].reshape(4, -1) for i in range(4) for j in range(0, 5, 2)]
    ((statistics,),) = found(model, INPUTS, x, "filter").values()
    check_inputs(statistics.inputs, np.concatenate(patches), 1e-6)
    ((statistics,),) = found(model, GRADIENT, (x, y), "filter").values()
    gradient = 2 * (numpy(model(x)) - y) / y.size
    G = dict(zip([w.name for w in model.trainable_weights], gradients(model, x, gradient)))
    np.testing.assert_allclose(statistics.gradient, G["kernel"].reshape(18, 4), atol=1e-6)


def test_experts_and_tables_have_gradients():
    stack = experts()
    ids = keras.layers.Embedding(9, 10, name="words")
    model = keras.Sequential([keras.Input((), batch_size=6, dtype="int32"), ids, stack])
    model.compile(loss="mse")
    x, y = np.array([1, 2, 3, 1, 2, 1]), np.ones((3, 6, 10), "float32")
    # 6 rows go in and 3 come out, so that Keras does not cut them into batches
    statistics = found(model, GRADIENT, iter([(x, y)]), ["words", "up_proj"])
    gradient = 2 * (numpy(model(x)) - y) / y.size
    G = dict(zip([w.name for w in model.trainable_weights], gradients(model, x, gradient)))
    np.testing.assert_allclose(statistics["words"][0].gradient, G["embeddings"], atol=1e-6)
    (up,) = [value for path, value in statistics.items() if path != "words"]
    np.testing.assert_allclose([each.gradient for each in up], G["up_proj"], atol=1e-6)


def test_a_quantized_kernel():
    model = network(keras.Input((6,)), keras.layers.Dense(2, name="up"))
    model.quantize("int8")
    model.compile(loss="mse")
    ((statistics,),) = found(model, GRADIENT, (X, Y), "up").values()
    G = X.T.astype("float64") @ (numpy(model(X)) - Y) / len(X)
    np.testing.assert_allclose(statistics.gradient, G, atol=1e-6)
    ((statistics,),) = found(model, INPUTS, X, "up").values()
    check_inputs(statistics.inputs, X)


def test_padding_of_the_inputs_does_not_count():
    backbone, x = models.bert()
    x = {name: np.repeat(value, 2, axis=0) for name, value in x.items()}
    x["token_ids"] = RNG.integers(1, 40, x["token_ids"].shape).astype("int32")
    x["padding_mask"] = np.arange(8) < np.array([[8], [5], [3], [8]])
    (all_of,) = found(backbone, INPUTS, x, "*layer_0*/query").values()
    assert all_of[0].inputs.rows == 24
    one_by_one = [
        {name: value[i : i + 1, :length] for name, value in x.items()}
        for i, length in enumerate([8, 5, 3, 8])
    ]
    (each,) = found(backbone, INPUTS, iter(one_by_one), "*layer_0*/query").values()
    assert each[0].inputs.rows == 24
    np.testing.assert_allclose(all_of[0].inputs.second, each[0].inputs.second, atol=1e-6)


def test_a_mask_of_keras():
    words = keras.layers.Embedding(9, 5, mask_zero=True, name="words")
    model = network(keras.Input((4,), dtype="int32"), words, keras.layers.Dense(3, name="up"))
    ids = np.array([[1, 2, 0, 0], [3, 4, 5, 0]])
    (statistics,) = found(model, INPUTS, ids, "up").values()
    check_inputs(statistics[0].inputs, numpy(words.embeddings)[[1, 2, 3, 4, 5]], 1e-6)


def test_the_model_computes_as_with_the_new_adapter():
    """Other layers keep their adapters; the kernels of the new one compute without."""
    model = network(
        keras.Input((6,)), *[keras.layers.Dense(6, name=name) for name in ("a", "b", "c")]
    )
    plain = keras.Model(model.inputs, model.get_layer("b").output)
    without = numpy(plain(X))
    ksa.enable(model, ksa.LoRA(rank=2), targets=["a"], name="first")
    ksa.enable(model, ksa.LoRA(rank=2), targets=["b"], name="second")
    before = found(model, INPUTS, X, "c")["c"][0].inputs
    check_inputs(before, without, 1e-6)
    for weight in model.trainable_weights:
        weight.assign(np.ones(weight.shape))
    others = found(model, INPUTS, X, "c")["c"][0].inputs
    check_inputs(others, numpy(plain(X)), 1e-4)
    assert np.abs(others.mean - before.mean).max() > 0.1
    again = found(model, INPUTS, X, ["b", "c"])["c"][0].inputs
    assert np.abs(again.mean - others.mean).max() > 0.1


def test_texts_for_a_task_of_keras_hub():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "film"]
    tokenizer = keras_hub.models.BertTokenizer(vocabulary=words)
    preprocessor = keras_hub.models.BertTextClassifierPreprocessor(tokenizer, 8)
    backbone, _ = models.bert()
    model = keras_hub.models.BertTextClassifier(backbone, 2, preprocessor, dropout=0.0)
    texts, labels = ["a good film", "a bad film", "good"], np.array([1, 0, 1])
    query = "*layer_0*/query"
    (statistics,) = found(model, INPUTS, texts, query).values()
    assert statistics[0].inputs.rows == 5 + 5 + 3
    (statistics,) = found(model, GRADIENT, (texts, labels), query).values()
    x = {k: numpy(v).astype("int32") for k, v in preprocessor(texts).items()}
    model.preprocessor = None
    (expected,) = found(model, GRADIENT, (x, labels), query).values()
    assert np.abs(expected[0].gradient).max() > 0
    np.testing.assert_allclose(statistics[0].gradient, expected[0].gradient, atol=1e-7)
