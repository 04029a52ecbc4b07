"""The public layers alone, in a Sequential, a functional and a subclassed model."""

import inspect

import keras
import keras_hub
import numpy as np
import pytest
from cases import EVERY_METHOD, batch, numpy, wrapped_layer

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.adapted_layer import AdaptedLayer

METHOD = EVERY_METHOD["svft_banded"].method


def base():
    layer = keras.layers.Dense(10, activation="relu")
    layer.build((None, 12))
    return layer


def sequential():
    return keras.Sequential(
        [keras.Input((12,)), wrapped_layer(METHOD, base()), keras.layers.Dense(1)]
    )


def functional():
    inputs = keras.Input((12,))
    adapted = wrapped_layer(METHOD, base())
    return keras.Model(inputs, keras.layers.Dense(1)(adapted(inputs) + adapted(inputs)))


def subclassed():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden = wrapped_layer(METHOD, base())
            self.out = keras.layers.Dense(1)

        def call(self, x):
            return self.out(self.hidden(x))

    return Net()


@pytest.mark.parametrize("build", [sequential, functional, subclassed])
def test_trains_in_a_model(build):
    model = build()
    model.compile(optimizer=keras.optimizers.Adam(1e-2), loss="mse")
    x = batch((16, 12))
    y = x[:, :1]
    losses = model.fit(x, y, epochs=30, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert [w.name for w in model.trainable_weights] == ["m", "kernel", "bias"]


def test_signature_and_config():
    parameters = list(inspect.signature(ksa.SVFTDense).parameters)
    assert parameters == ["base_layer", "pattern", "d", "nnz", "seed", "formulation", "kwargs"]
    assert ksa.LoRADense(base(), 4).method == ksa.LoRA(rank=4)
    layer = ksa.SVFTDense(base(), pattern="banded", d=2, name="mine")
    copy = ksa.SVFTDense.from_config(layer.get_config())
    assert (copy.name, copy.method) == ("mine", METHOD)
    with pytest.raises(RuntimeError, match="holds no values yet"):
        copy(batch((2, 12)))


def test_methods_are_values():
    assert ksa.SVFT(pattern="banded", d=2) == METHOD
    assert len({ksa.SVFT(pattern="banded", d=2), METHOD, ksa.SVF()}) == 2
    assert repr(METHOD) == "SVFT(pattern='banded', d=2)"
    for case in EVERY_METHOD.values():
        assert type(case.method).from_config(case.method.get_config()) == case.method


def test_merged_layer_saves_as_merged(tmp_path):
    model = sequential()
    x = batch((3, 12))
    model.layers[0].trainable_weights[0].assign_add(np.full(METHOD.entries.count(10), 0.1))
    expected = model.predict(x, verbose=0)
    ksa.merge(model)
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(again.predict(x, verbose=0), expected, atol=1e-5)


def test_pissa_from_a_randomized_decomposition():
    base = keras.layers.Dense(200)
    base.build((None, 240))
    K = base.kernel.numpy()
    x = batch((3, 240))
    expected = numpy(base(x))
    layer = ksa.PiSSADense(base, rank=4, svd="randomized")
    np.testing.assert_array_equal(numpy(layer(x)), expected)
    start = layer.base_layer.adapter().arrays
    found = start["start_a"].numpy() @ start["start_b"].numpy()
    energy = np.linalg.svd(K, compute_uv=False)[:4]
    assert 0.97 < np.linalg.norm(found) / np.linalg.norm(energy) <= 1 + 1e-6


@pytest.mark.parametrize("bad", [{"svd": "quick"}, {"oversampling": -1}, {"dropout": 0.1}])
def test_what_pissa_does_not_take(bad):
    with pytest.raises((ValueError, TypeError)):
        ksa.PiSSA(rank=4, **bad)


@pytest.mark.backend_free("names of classes")
def test_no_name_of_the_mixin_is_one_of_a_layer():
    """Except those that the mixin overrides on purpose."""
    ours = {name for name in vars(AdaptedLayer) if not name.startswith("__")}
    ours -= {"save_own_variables", "enable_lora", "from_config", "_abc_impl"}
    classes = [*vars(keras.layers).values(), *vars(keras_hub.layers).values()]
    for cls in classes:
        if inspect.isclass(cls) and not issubclass(cls, AdaptedLayer):
            assert not ours & set(dir(cls)), cls
