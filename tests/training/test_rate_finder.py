"""The search for a learning rate: what it finds, and that it leaves no trace."""

import random
import warnings

import keras
import keras_hub
import models
import numpy as np
import pytest
from rate_models import BATCH, MODELS, compiled, data, everything, find, values

import keras_svd_adapters as ksa

METHODS = {
    "lora": ksa.LoRA(rank=2, dropout=0.2),
    "svf": ksa.SVF(),
    "svft": ksa.SVFT(pattern="banded", d=1),
    "pissa": ksa.PiSSA(rank=2),
}


def fit(model, epochs=2):
    history = model.fit(*data(), batch_size=BATCH, epochs=epochs, verbose=0)
    return {name: np.array(values).tobytes() for name, values in history.history.items()}


ROWS = [("dropout and statistics", "built"), ("float16", "trained"), ("momentum", "trained")]


@pytest.mark.parametrize(("name", "before"), [*((name, "unbuilt") for name in MODELS), *ROWS])
def test_training_goes_on_as_without_it(name, before):
    runs = []
    for searches in (False, True):
        model = compiled(name)
        if before == "built":
            model.optimizer.build(model.trainable_variables)
        if before == "trained":
            fit(model, 1)
        if searches:
            at_first, optimizer = everything(model), model.optimizer
            found = find(model)
            assert found.losses[-1] != found.losses[0]
            assert everything(model) == at_first
            assert model.optimizer is optimizer
            assert optimizer.built == (before != "unbuilt")
        runs.append((fit(model), values(model)))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("method", METHODS)
def test_an_adapted_model_trains_as_without_it(method):
    runs = []
    for searches in (False, True):
        model = compiled("dropout and statistics")
        ksa.enable(model, METHODS[method], train="head", targets="all")
        if searches:
            find(model)
        runs.append((fit(model), values(model)))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("rate", [1e-7, 1e-2, 1.0])
def test_it_warns_of_no_rate(rate):
    model = compiled("plain")
    ksa.enable(model, METHODS["pissa"], targets="all")
    model.compile(keras.optimizers.Adam(rate), loss="mse")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "At a learning rate of")
        find(model)
    if rate != 1e-2:
        with pytest.warns(UserWarning, match="At a learning rate of"):
            fit(model, 1)


def test_the_random_state_of_the_process():
    drawn = []
    for searches in (False, True):
        keras.utils.set_random_seed(3)
        model = compiled("dropout and statistics")
        if searches:
            find(model, methods=[ksa.LoRA(rank=2)], targets="all")
            find(model)
        drawn.append((random.random(), np.random.rand(), float(keras.random.uniform(()))))
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("trained_before", [0, 1])
def test_methods_are_compared_on_a_model_without_adapters(trained_before):
    runs = []
    for searches in (False, True):
        model = compiled("dropout and statistics")
        model.layers[0].trainable = False
        if trained_before:
            fit(model, trained_before)
        if searches:
            before, optimizer = everything(model), model.optimizer
            classes = [type(layer) for layer in model.layers]
            methods = [*METHODS.values(), ksa.LoRA(rank=99)]
            found = find(model, methods=methods, targets="all", train="*bias")
            assert everything(model) == before
            assert model.optimizer is optimizer
            assert [type(layer) for layer in model.layers] == classes
            assert {*found.curves} == {*METHODS.values()}
            assert "rank" in found.refused[ksa.LoRA(rank=99)]
            lowest = [curve.smoothed.min() for curve in found.curves.values()]
            assert lowest == sorted(lowest)
            assert found.suggestion == found.curves[found.best].suggestion
            assert all(str(method) in str(found) for method in methods)
        runs.append((fit(model), values(model)))
    assert runs[0] == runs[1]


def test_a_method_alone_and_among_others_is_the_same():
    model = compiled("dropout and statistics")
    alone = find(model, methods=[ksa.SVF()], targets="all").curves[ksa.SVF()]
    among = find(model, methods=[ksa.LoRA(rank=1), ksa.SVF()], targets="all").curves[ksa.SVF()]
    np.testing.assert_array_equal(alone.losses, among.losses)


@pytest.mark.parametrize(
    ("error", "steps", "compares", "trained_before"),
    [
        (KeyboardInterrupt, 1, False, 0),
        (RuntimeError, 17, False, 1),
        (RuntimeError, 1, True, 1),
        (KeyboardInterrupt, 17, True, 0),
    ],
)
def test_an_interruption_restores_everything(monkeypatch, error, steps, compares, trained_before):
    how = {"methods": [ksa.SVF()], "targets": "all"} if compares else {}
    model = compiled("dropout and statistics")
    if trained_before:
        fit(model, trained_before)
    before, optimizer = everything(model), model.optimizer
    original, calls = keras.Model.train_on_batch, []

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        logs = original(self, *args, **kwargs)
        if len(calls) == steps:
            raise error("stop")
        return logs

    monkeypatch.setattr(keras.Model, "train_on_batch", interrupted)
    with pytest.raises(error, match="stop"):
        find(model, **how)
    assert everything(model) == before
    assert model.optimizer is optimizer
    with pytest.raises(ValueError, match="no adapter"):
        ksa.set_adapter(model, "default")
    monkeypatch.undo()
    fit(model)


def test_a_step_that_fails_on_the_way(monkeypatch):
    """JAX has taken the values out of the variables by then."""
    model = compiled("dropout and statistics")
    fit(model, 1)
    before, step, calls = everything(model), model.train_function, []

    def interrupted(*args):
        calls.append(1)
        found = step(*args)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return found

    model.train_function = interrupted
    with pytest.raises(KeyboardInterrupt):
        find(model)
    assert everything(model) == before
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()
    assert everything(model) == before


if keras.backend.backend() == "torch":

    def test_gradients_and_the_buffers_of_wrapped_modules():
        import torch

        statistics = keras.layers.TorchModuleWrapper(torch.nn.BatchNorm1d(6))
        model = keras.Sequential([keras.Input((6,)), statistics, keras.layers.Dense(2)])
        model.compile("adam", "mse")
        with pytest.raises(ValueError, match=r"call the model on a batch.*Received: "):
            find(model)  # the shape of the wrapped module is not known yet
        model(data()[0])
        parameters = list(model.parameters())
        parameters[0].grad = torch.ones_like(parameters[0])
        buffers = [buffer.clone() for buffer in statistics.buffers()]
        find(model)
        assert bool((parameters[0].grad == 1).all())
        assert all(parameter.grad is None for parameter in parameters[1:])
        assert len(buffers) == 3
        assert all(torch.equal(*pair) for pair in zip(statistics.buffers(), buffers, strict=True))


@pytest.mark.parametrize("form", ["list", "array", "dataset"])
def test_a_task_of_keras_hub_reads_texts(form):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad"]
    tokenizer = keras_hub.models.BertTokenizer(words, lowercase=True)
    preprocessor = keras_hub.models.BertTextClassifierPreprocessor(tokenizer, 8)
    backbone, _ = models.bert(num_layers=1)
    model = keras_hub.models.BertTextClassifier(backbone, 2, preprocessor=preprocessor)
    ksa.enable(model, ksa.LoRA(rank=2), train="logits")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(), loss=loss)
    texts, labels = ["good", "bad"] * 8, np.array([0, 1] * 8)
    data = {"list": (texts, labels), "array": (np.array(texts), labels)}
    data["dataset"] = (iter([(np.array(texts, object), labels)]),)
    found = ksa.find_learning_rate(model, *data[form], steps=12, high=1.0)
    assert found.smoothed.min() < found.smoothed[0]
