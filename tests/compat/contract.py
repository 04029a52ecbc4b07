"""What every version of Keras must do, verb by verb; `make compat` runs it on each version.

Names of tests are the verbs of the table.
"""

import copy

import keras
import numpy as np
import pytest
from cases import numpy, shake
from subject import X, Y, adapted, close, every_method, moved, plain, predicted

import keras_svd_adapters as ksa


@every_method
def test_enable(method):
    model = plain()
    before = predicted(model)
    adapted(method, model=model)
    close(predicted(model), before, 1e-5)
    assert all(row[-1] == "yes" for row in ksa.status(model).adapters)


@every_method
def test_train(method):
    model = adapted(method)
    frozen = {w.path: numpy(w) for w in model.non_trainable_weights}
    model.compile(keras.optimizers.AdamW(0.01), "mse")
    losses = model.fit(X, Y, epochs=3, verbose=0, batch_size=16).history["loss"]
    assert losses[-1] < losses[0]
    for weight in model.non_trainable_weights:
        np.testing.assert_array_equal(numpy(weight), frozen[weight.path])


@every_method
def test_save(method, tmp_path):
    model = moved(method, train="head")
    ksa.save_adapter(model, tmp_path / "a.keras")
    fresh = plain()
    ksa.load_adapter(fresh, tmp_path / "a.keras", verbose=0)
    close(predicted(fresh), predicted(model), 1e-6)


@every_method
def test_reload(method, tmp_path):
    model = moved(method)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "whole.keras")
    model.save_weights(tmp_path / "all.weights.h5")
    loaded, filled = keras.models.load_model(tmp_path / "whole.keras"), adapted(method)
    filled.load_weights(tmp_path / "all.weights.h5")
    for each in (loaded, filled, copy.deepcopy(model)):
        close(predicted(each), predicted(model), 1e-6)
    before = predicted(loaded)
    loaded.fit(X, Y, verbose=0)
    assert np.abs(predicted(loaded) - before).max() > 0


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_resume(dropout, tmp_path):
    def run(model, first, last):
        model.fit(X, Y, 8, last, 0, initial_epoch=first, shuffle=False)
        return model

    def start():
        model = adapted(ksa.LoRA(rank=2, dropout=dropout), train="head")
        model.compile(keras.optimizers.Adam(0.01, weight_decay=0.01), "mse")
        return model

    keras.utils.set_random_seed(5)
    whole = run(start(), 0, 4)
    keras.utils.set_random_seed(5)
    run(start(), 0, 2).save(tmp_path / "half.keras")
    resumed = run(keras.models.load_model(tmp_path / "half.keras"), 2, 4)
    for ours, theirs in zip(whole.trainable_weights, resumed.trainable_weights, strict=True):
        np.testing.assert_array_equal(numpy(ours), numpy(theirs))


@every_method
def test_merge(method):
    model = moved(method)
    before = predicted(model)
    ksa.merge(model)
    close(predicted(model), before, 1e-4)
    assert type(model.get_layer("up")) is keras.layers.Dense
    ksa.unmerge(model)
    close(predicted(model), before, 1e-6)


def test_export(tmp_path):
    model = moved(ksa.LoRA(rank=2))
    modules = {"up": "net.up", "mix": "net.mix"}
    ksa.export_peft(model, tmp_path / "peft", modules=modules)
    fresh = plain()
    ksa.import_peft(fresh, tmp_path / "peft", modules=modules)
    close(predicted(fresh), predicted(model))
    report = ksa.to_lora(moved(ksa.SVFT("banded", d=1)), into="near", rank=4)
    assert report.error < 1


@every_method
def test_switch(method):
    model = moved(method, name="a", train="head")
    adapted(ksa.LoRA(rank=2), "b", model, train="head")
    shake(model, seed=3)
    each = {}
    for name in ("a", "b", "a", "b"):
        ksa.set_adapter(model, name)
        each.setdefault(name, predicted(model))
        np.testing.assert_array_equal(predicted(model), each[name])
    with ksa.disabled(model):
        without = predicted(model)
    ids = ["a", "b"] * 8
    mixed = ksa.predict(model, X, ids)
    close(mixed, [each[name][row] for row, name in enumerate(ids)])
    ksa.delete_adapter(model, "b")
    ksa.delete_adapter(model, "a")
    assert len(model.weights) == len(plain().weights)
    close(predicted(model), without, 1e-6)


def test_switch_inside_fit():
    model = adapted(ksa.LoRA(rank=2), "a")
    adapted(ksa.SVF(), "b", model)
    model.compile(keras.optimizers.Adam(0.01), "mse")

    class Switch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            ksa.set_adapter(model, "ab"[epoch % 2])

    before = {w.path: numpy(w) for w in model.weights if "adapter_" in w.path}
    model.fit(X, Y, epochs=2, verbose=0, callbacks=[Switch()])
    still = [path for path, w in before.items() if (w == numpy(weight(model, path))).all()]
    assert all("lora_a" in path or "/U" in path or "/s" in path or "/Vt" in path for path in still)


def weight(model, path):
    return next(w for w in model.weights if w.path == path)


@pytest.mark.parametrize("mode", ["int8", "int4", "nf4"])
def test_quantize(mode):
    model = plain()
    try:
        keras.dtype_policies.get(f"{mode}_from_float32" if mode != "nf4" else "float32")
    except ValueError:
        with pytest.raises(ValueError, match="keras>=3.11"):
            ksa.quantize(model, mode, ksa.LoRA(rank=2), targets=["up"], verbose=0)
        return
    float_outputs = predicted(model)
    report = ksa.quantize(model, mode, ksa.LoRA(rank=2), targets=["up", "mix"], verbose=0)
    assert all(kernel.error < kernel.alone for kernel in report.kernels)
    close(predicted(model), float_outputs, 1.0)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.fit(X, Y, verbose=0)
    before = predicted(model)
    ksa.merge(model, quantized="float")
    close(predicted(model), before, 0.1)
    ksa.unmerge(model)
    close(predicted(model), before, 1e-4)
