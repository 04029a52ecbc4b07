"""No path trains or serves a graph from before a change."""

import warnings

import keras
import keras_hub
import models
import numpy as np
import pytest
from cases import numpy, shake

import keras_svd_adapters as ksa

SVFT = ksa.SVFT(pattern="banded", d=2)


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*optimizer of.*")
        yield


def compile_(model):
    model.compile(
        optimizer=keras.optimizers.Adam(1e-2),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )


def learns(model, x, y, name):
    """Whether fit moves every trained value of the active adapter, and predict sees it."""
    before = np.asarray(model.predict(x, verbose=0))
    start = {w.path: w.numpy().copy() for w in model.trainable_weights}
    model.fit(x, y, epochs=2, verbose=0)
    assert any(name in path.split("/")[-1] for path in start)
    for weight in model.trainable_weights:
        assert not np.array_equal(weight.numpy(), start[weight.path]), weight.path
    after = np.asarray(model.predict(x, verbose=0))
    np.testing.assert_allclose(after, numpy(model(x)), atol=1e-5)
    return np.abs(after - before).max() > 1e-6


@pytest.mark.parametrize("where", ["before compile", "after compile", "after fit"])
def test_functional_model_around_a_backbone(where):
    model, backbone, x = models.classifier(num_layers=1)
    y = np.array([0, 2])
    if where == "before compile":
        ksa.enable(backbone, SVFT)
    compile_(model)
    if where == "after fit":
        model.fit(x, y, verbose=0)
        model.predict(x, verbose=0)
        model.evaluate(x, y, verbose=0)
    if where != "before compile":
        ksa.enable(backbone, SVFT)
    assert learns(model, x, y, "m")
    ksa.enable(backbone, ksa.LoRA(rank=2), name="second")
    assert learns(model, x, y, "lora_b")
    tuned = model.predict(x, verbose=0)
    ksa.set_adapter(backbone, None)
    plain = model.predict(x, verbose=0)
    assert np.abs(tuned - plain).max() > 1e-6
    ksa.set_adapter(backbone, "second")
    np.testing.assert_array_equal(model.predict(x, verbose=0), tuned)
    with ksa.disabled(backbone):
        np.testing.assert_array_equal(model.predict(x, verbose=0), plain)
    np.testing.assert_array_equal(model.predict(x, verbose=0), tuned)


def test_bare_backbone():
    backbone, x = models.llama(num_layers=1)
    backbone.compile(optimizer=keras.optimizers.Adam(1e-2), loss="mse")
    y = np.zeros((2, 8, 16), dtype="float32")
    backbone.fit(x, y, verbose=0)
    ksa.enable(backbone, SVFT)
    assert learns(backbone, x, y, "m")
    ksa.delete_adapter(backbone, "default")
    ksa.enable(backbone, ksa.SVF())
    assert learns(backbone, x, y, "z")
    tuned = backbone.predict(x, verbose=0)
    ksa.merge(backbone)
    np.testing.assert_allclose(backbone.predict(x, verbose=0), tuned, atol=1e-5)
    start = [w.numpy().copy() for w in backbone.trainable_weights]
    backbone.fit(x, y, verbose=0)
    assert len(start) > 10
    assert not np.array_equal(start[0], backbone.trainable_weights[0].numpy())


@pytest.mark.parametrize("sees", ["eagerly", "compiled"])
def test_causal_task_fits_and_generates(sees):
    backbone, _ = models.llama(num_layers=1)
    task = keras_hub.models.LlamaCausalLM(backbone, preprocessor=None)
    task.compile(
        optimizer=keras.optimizers.Adam(3e-1),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        sampler="greedy",
        run_eagerly=sees == "eagerly",
    )
    prompt = models.text() | {"padding_mask": np.array([[1, 1, 0, 0, 0, 0, 0, 0]] * 2)}
    x, y = models.text(), np.full((2, 8), 7)

    def generated():
        return keras.ops.convert_to_numpy(task.generate(prompt, stop_token_ids=None)["token_ids"])

    plain = generated()
    ksa.enable(task.backbone, SVFT)
    np.testing.assert_array_equal(generated(), plain)
    assert learns(task, x, y, "m")
    tuned = generated()
    assert (tuned[:, 2:] == 7).mean() > (plain[:, 2:] == 7).mean()
    with ksa.disabled(task):
        np.testing.assert_array_equal(generated(), plain)
    np.testing.assert_array_equal(generated(), tuned)
    ksa.merge(task)
    np.testing.assert_array_equal(generated(), tuned)


def test_a_built_optimizer_is_replaced_and_says_so():
    model, backbone, x = models.classifier(num_layers=1)
    compile_(model)
    model.fit(x, np.array([0, 1]), verbose=0)
    with pytest.warns(UserWarning, match="keeps the state of 2 variables"):  # those of the head
        ksa.enable(backbone, SVFT)
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-2)
    assert int(model.optimizer.iterations) == 1


def test_code_that_reads_the_kernel_sees_the_adapter():
    layer = keras.layers.Dense(6)
    layer.build((None, 8))
    plain = layer.kernel.numpy()
    ksa.enable(layer, ksa.SVF())
    layer.adapter_default.z.assign(np.linspace(0.5, 1.5, 6))
    x = np.eye(8, dtype="float32")
    effective = numpy(layer.kernel)
    np.testing.assert_allclose(effective, numpy(layer(x)) - layer.bias.numpy(), atol=1e-6)
    assert np.abs(effective - plain).max() > 0.01
    with ksa.disabled(layer):
        np.testing.assert_array_equal(numpy(layer.kernel), plain)


def test_switching_back_traces_nothing():
    model, backbone, x = models.classifier(num_layers=1)
    ksa.enable(backbone, SVFT)
    ksa.enable(backbone, ksa.LoRA(rank=2), name="second")
    compile_(model)
    shake(backbone)
    outputs, functions = {}, {}
    for name in ("default", "second", None):
        ksa.set_adapter(backbone, name)
        outputs[name] = model.predict(x, verbose=0)
        functions[name] = model.predict_function
    assert len(set(functions.values())) == 3
    backbone.get_layer("transformer_layer_0")._self_attention_layer.query_dense.bias.assign(
        np.ones((2, 8))
    )
    for name in ("second", "default", None):
        ksa.set_adapter(backbone, name)
        assert model.predict_function is functions[name]
        np.testing.assert_allclose(model.predict(x, verbose=0), numpy(model(x)), atol=1e-5)
        assert np.abs(numpy(model(x)) - outputs[name]).max() > 1e-3
    ksa.set_adapter(backbone, "default")
    with ksa.disabled(backbone):
        np.testing.assert_allclose(model.predict(x, verbose=0), numpy(model(x)), atol=1e-5)
        assert model.predict_function is not functions["default"]
    assert model.predict_function is functions["default"]
    ksa.delete_adapter(backbone, "second")
    ksa.set_adapter(backbone, "default")
    assert model.predict_function not in functions.values()


def test_compiling_forgets_what_waits():
    model, backbone, x = models.classifier(num_layers=1)
    ksa.enable(backbone, SVFT)
    compile_(model)
    before = model.predict(x, verbose=0)
    ksa.set_adapter(backbone, None)
    model.get_layer("head").activation = keras.activations.sigmoid
    compile_(model)
    ksa.set_adapter(backbone, "default")
    after = model.predict(x, verbose=0)
    np.testing.assert_allclose(after, numpy(keras.ops.sigmoid(before)), atol=1e-6)


def test_evaluate_sees_what_differs_by_a_number_alone():
    """JAX knows a step that it traced by the method of the model, which stays the same."""
    model, backbone, x = models.classifier(num_layers=1)
    y = np.zeros((2, 3), "float32")
    plain = np.mean(numpy(model(x)) ** 2)
    losses = {}
    for alpha in (4.0, 8.0):
        ksa.enable(backbone, ksa.LoRA(rank=2, alpha=alpha), name=f"a{alpha:.0f}")
        shake(backbone, 0.3)
    model.compile(loss="mse")
    for name in ("a4", "a8"):
        ksa.set_adapter(backbone, name)
        losses[name] = model.evaluate(x, y, verbose=0)
        np.testing.assert_allclose(losses[name], np.mean(numpy(model(x)) ** 2), rtol=1e-5)
    with ksa.disabled(backbone):
        np.testing.assert_allclose(model.evaluate(x, y, verbose=0), plain, rtol=1e-5)
    np.testing.assert_allclose(model.evaluate(x, y, verbose=0), losses["a8"], rtol=1e-6)
    assert len({plain, *losses.values()}) == 3


def test_generate_advises_to_merge_once():
    task = keras_hub.models.LlamaCausalLM(models.llama(num_layers=1)[0], preprocessor=None)
    task.compile(sampler="greedy", run_eagerly=True)
    prompt = models.text() | {"padding_mask": np.array([[1, 1, 0, 0, 0, 0, 0, 0]] * 2)}

    def advice(task):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            task.generate(prompt, stop_token_ids=None)
        return [w.filename for w in caught if "merge(model)" in str(w.message)]

    assert not advice(task)
    assert "merge(model)" not in str(ksa.status(task))
    assert "merge(model)" in str(ksa.enable(task, SVFT))
    with ksa.disabled(task):
        assert not advice(task)
    assert advice(task) == [__file__]
    assert not advice(task)
    ksa.merge(task)
    assert "merge(model)" not in str(ksa.status(task))


def test_another_sampler_is_another_function():
    backbone, _ = models.llama(num_layers=1)
    task = keras_hub.models.LlamaCausalLM(backbone, preprocessor=None)
    ksa.enable(task, SVFT)
    prompt = models.text() | {"padding_mask": np.array([[1, 1, 0, 0, 0, 0, 0, 0]] * 2)}
    functions = []
    for sampler in ("greedy", "top_k"):
        task.compile(sampler=sampler)
        for name in ("default", None):
            ksa.set_adapter(task, name)
            task.generate(prompt, stop_token_ids=None)
            functions.append(task.generate_function)
    assert len(set(functions)) == 4
