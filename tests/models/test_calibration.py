"""Data that passes a model before the start, and what it finds for each kernel."""

import keras
import models
import numpy as np
import pytest
import rate_models
from autodiff import gradients
from cases import numpy
from experts import experts
from snapshots import refused, snapshot
from tasks import task

import keras_svd_adapters as ksa
from keras_svd_adapters.methods.contract import Statistics
from keras_svd_adapters.models.assignment import choose_methods
from keras_svd_adapters.models.observation.observe import observe

INPUTS = ksa.LoRA(rank=1, start="eva")
GRADIENT = ksa.LoRA(rank=1, start="lora_ga")
RNG = np.random.default_rng(3)
X, Y = rate_models.data()


def found(model, method, data, targets="all"):
    """The statistics of each kernel, by its path."""
    chosen = choose_methods(model, method, targets)
    paths = {site.key: site.path for site, _ in chosen}
    return {paths[key]: value for key, value in observe(model, chosen, data, 0).items()}


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


@pytest.mark.parametrize("method", [INPUTS, GRADIENT], ids=["inputs", "gradient"])
@pytest.mark.parametrize("is_trained", [False, True])
def test_it_leaves_no_trace(method, is_trained):
    model = rate_models.compiled("dropout and statistics")
    if is_trained:
        model.fit(X, Y, verbose=0)
    before, bits = snapshot(model), rate_models.everything(model)
    found(model, method, (X, Y), "second")
    assert snapshot(model) == before
    assert rate_models.everything(model) == bits
    model.fit(X, Y, verbose=0)


def test_progress(capsys):
    model = rate_models.compiled("plain")
    ksa.enable(model, INPUTS, targets="second", calibrate=(X, Y), verbose=1)
    assert "1/2 batches, 50%, calibration" in capsys.readouterr().out


REFUSED = {
    "no data": (INPUTS, None, "calibrate=x`"),
    "no data for gradients": (GRADIENT, None, r"calibrate=\(x, y\)`"),
    "no need": (ksa.SVF(), X, "leave `calibrate` out"),
    "no samples": (INPUTS, X[:0], "same number of samples"),
    "unlike numbers": (INPUTS, (X, Y[:3]), "same number of samples"),
    "no batches": (INPUTS, iter([]), "make a new one"),
    "a tuple of four": (INPUTS, (X, X, X, X), r"or a tuple `\(x, y\)`"),
    "no targets": (GRADIENT, X, "needs targets"),
    "too few rows": (ksa.LoRA(rank=2, start="eva"), X[:2], "more data"),
    "infinite": (INPUTS, np.full((4, 6), np.inf, "float32"), "NaN or infinite"),
    "an infinite loss": (GRADIENT, (X, np.full((48, 2), np.inf)), "NaN or infinite"),
}


@pytest.mark.parametrize(("method", "data", "match"), REFUSED.values(), ids=REFUSED)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_is_refused(method, data, match):
    model = rate_models.compiled("plain")
    with refused(model, match):
        ksa.enable(model, method, targets="all", calibrate=data)


def test_an_endless_dataset():
    tf = pytest.importorskip("tensorflow")
    model = rate_models.compiled("plain")
    with refused(model, "take some batches"):
        data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8).repeat()
        ksa.enable(model, INPUTS, targets="all", calibrate=data)


def test_models_and_layers_that_do_not_suit():
    model = rate_models.network()
    with refused(model, "`compile` the model"):
        ksa.enable(model, GRADIENT, targets="all", calibrate=(X, Y))
    words = keras.layers.Embedding(9, 5, name="words")
    model = keras.Sequential([keras.Input((4,), dtype="int32"), words])
    with refused(model, "it looks up rows"):
        ksa.enable(model, INPUTS, targets="words", calibrate=np.ones((4, 4), int))
    unbuilt = keras.Sequential([keras.layers.Dense(3)])
    with pytest.raises(ValueError, match=r"(?s)build.*Received: "):
        ksa.enable(unbuilt, INPUTS, targets="all", calibrate=X)
    layer = keras.layers.Dense(3)
    layer.build((None, 6))
    with pytest.raises(ValueError, match=r"calibrate=x.*Received: "):
        ksa.LoRADense(layer, rank=2, start="eva")


def test_statistics_have_a_pass_each():
    from keras_svd_adapters.models.observation.passes import PASSES

    assert {each.need for each in PASSES} == {*Statistics._fields}
