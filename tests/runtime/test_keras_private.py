"""Each private part of Keras that the package leans on, alone: a move by Keras fails here."""

import keras
import models
import numpy as np
import pytest
from keras.src.saving import saving_lib

from keras_svd_adapters import enable
from keras_svd_adapters.adapters.adapted_layer import AdaptedLayer
from keras_svd_adapters.adapters.class_mixing import add_mixin, remove_mixin
from keras_svd_adapters.adapters.frozen_variables import freeze_variable, restore_variable
from keras_svd_adapters.kernels.quantized import dequantized
from keras_svd_adapters.methods.low_rank.lora import LoRA
from keras_svd_adapters.models.sites.blocks import output_layers
from keras_svd_adapters.models.state.optimizer_state import fresh_optimizer
from keras_svd_adapters.runtime import live_models
from keras_svd_adapters.runtime.keras_private.layers import attach_child, detach_child
from keras_svd_adapters.runtime.keras_private.tracing import end_loop_state
from keras_svd_adapters.runtime.keras_private.variables import (
    exclude_from_weight_decay,
    stored_value,
)
from keras_svd_adapters.runtime.layer_attributes import HOLDERS, children, walk
from keras_svd_adapters.training.optimizers import peak_learning_rate


class Recorder(saving_lib.H5IOStore):
    """A weights store that notes the paths under which Keras saves."""

    def __init__(self):
        self.paths = []

    def make(self, path, metadata=None):
        self.paths.append(path)
        return {}

    def __bool__(self):
        return True

    def close(self):
        pass


@pytest.mark.parametrize("family", models.FAMILIES)
def test_walk_gives_the_paths_of_weight_files(family):
    model, _ = models.FAMILIES[family]()
    recorder = Recorder()
    saving_lib._save_state(model, recorder, None, inner_path="", visited_saveables=set())
    found = [path for path, _ in walk(model)]
    layers = [path for path in recorder.paths if "seed_generator" not in path]
    assert found == layers


def test_walk_is_the_same_every_time():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.mid = [keras.layers.Dense(2)]
            self.z = {"a": [keras.layers.Dense(3)], "b": self.mid}

        def call(self, x):
            return self.z["a"][0](self.mid[0](x))

    net = Net()
    net(np.ones((1, 2), dtype="float32"))
    assert len({tuple(path for path, _ in walk(net)) for _ in range(100)}) == 1


def test_graft_keeps_name_and_configuration():
    layer = keras.layers.Dense(3)
    layer.build((None, 2))
    plain = keras.saving.serialize_keras_object(layer)
    add_mixin(layer, AdaptedLayer)
    assert type(layer).__name__ == "Dense"
    assert isinstance(layer, keras.layers.Dense)
    assert keras.saving.serialize_keras_object(layer) == plain
    remove_mixin(layer, AdaptedLayer)
    assert type(layer) is keras.layers.Dense


def test_a_built_layer_takes_and_gives_back_a_child():
    layer, child = keras.layers.Dense(3), keras.layers.Dense(2)
    layer.build((None, 2))
    child.build((None, 2))
    with pytest.raises(ValueError, match="cannot add new elements"):
        layer.child = child
    attach_child(layer, "child", child)
    assert len(layer.weights) == 4
    with pytest.raises(ValueError, match="cannot add new elements"):
        layer.other = keras.layers.Dense(2)
    detach_child(layer, "child")
    assert len(layer.weights) == 2
    assert not hasattr(layer, "child")


def test_pin_outlives_every_switch():
    layer = keras.layers.Dense(3)
    layer.build((None, 2))
    freeze_variable(layer.kernel)
    layer.trainable = False
    layer.trainable = True
    assert [w.name for w in layer.trainable_weights] == ["bias"]
    restore_variable(layer.kernel)
    assert len(layer.trainable_weights) == 2
    assert type(layer.kernel) is keras.Variable
    layer.bias.trainable = False
    freeze_variable(layer.bias)
    restore_variable(layer.bias)
    assert not layer.bias.trainable


def test_models_that_are_made_later_are_found():
    layer = keras.layers.Dense(2)
    model = keras.Sequential([keras.Input((3,)), layer])
    assert any(found is model for found in live_models.models_containing([layer]))
    later = keras.Sequential([keras.Input((3,)), layer])
    assert any(found is later for found in live_models.models_containing([layer]))


def test_models_around_a_layer():
    layer = keras.layers.Dense(3)
    inputs = keras.Input((2,))
    inner = keras.Model(inputs, layer(inputs))
    outer = keras.Sequential([inner, keras.layers.Dense(1)])
    other = keras.Sequential([keras.layers.Dense(1)])
    found = live_models.models_containing([layer])
    assert any(model is inner for model in found)
    assert any(model is outer for model in found)
    assert not any(model is other for model in found)


def test_exclusions_from_weight_decay_add_up():
    first, second = keras.Variable(np.ones(2)), keras.Variable(np.ones(2))
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_list=[first])
    exclude_from_weight_decay(optimizer, [second])
    copy = fresh_optimizer(optimizer)
    third = keras.Variable(np.ones(2))
    copy.apply([keras.ops.zeros(2)] * 3, [first, second, third])
    np.testing.assert_array_equal(first.numpy(), np.ones(2))
    np.testing.assert_array_equal(second.numpy(), np.ones(2))
    assert third.numpy().max() < 1


def test_peak_learning_rate():
    schedule = keras.optimizers.schedules.PolynomialDecay(0.3, 100, 0.1)
    assert peak_learning_rate(keras.optimizers.SGD(schedule)) == pytest.approx(0.3)
    assert peak_learning_rate(keras.optimizers.SGD(0.2)) == pytest.approx(0.2)


def test_peak_learning_rate_of_what_no_configuration_has():
    class Climbing(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 1e-3 * min(float(step), 50.0)

    assert peak_learning_rate(keras.optimizers.SGD(Climbing())) == pytest.approx(0.05)
    assert peak_learning_rate(keras.optimizers.SGD(lambda: 0.2)) == pytest.approx(0.2)


def test_output_layers():
    inputs = keras.Input((2,))
    layer = keras.layers.Dense(3)
    assert output_layers(keras.Model(inputs, {"y": layer(inputs)})) == [layer]
    assert output_layers(layer) == []


EQUATIONS = {  # input, output without the batch
    "btd,dnh->btnh": ((2, 5, 3), (None, 2, 4)),
    "btd,dnh->bthn": ((2, 5, 3), (None, 4, 2)),
    "btd,hdn->btnh": ((2, 5, 3), (None, 2, 4)),
    "btd,nhd->bthn": ((2, 5, 3), (None, 4, 2)),
    "btd,ndhk->btkhn": ((2, 5, 3), (None, 4, 6, 2)),
    "bdt,dh->bth": ((2, 3, 5), (5, 4)),
    "btnh,nhd->btd": ((2, 5, 2, 4), (None, 3)),
}


@pytest.mark.parametrize("equation", EQUATIONS)
def test_int8_is_divided_by_the_scale_as_keras_does(equation):
    inputs, outputs = EQUATIONS[equation]
    layer = keras.layers.EinsumDense(equation, output_shape=outputs)
    layer.build(inputs)
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    layer.quantize("int8")
    integers = keras.ops.convert_to_tensor(layer.kernel)
    found = keras.ops.convert_to_numpy(dequantized(layer))
    scale = layer._adjust_scale_for_dequant(keras.ops.convert_to_tensor(layer.kernel_scale))
    theirs = keras.ops.divide(keras.ops.cast(integers, "float32"), scale)
    np.testing.assert_array_equal(found, keras.ops.convert_to_numpy(theirs))
    np.testing.assert_allclose(found, kernel, rtol=0, atol=0.02)


def test_values_of_a_loop_return_for_good():
    """On JAX, Keras takes the values out of the variables while it trains.

    A callback that reads `self.model` gets them back; one that knows the model does not.
    """
    without_values = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            for before in (True, False):
                empty = [v for v in model.weights if stored_value(v) is None]
                without_values.append((before, len(empty)))
                end_loop_state(model)

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 3)), np.ones((4, 2)), batch_size=2, verbose=0, callbacks=[Look()])
    taken = 2 if keras.backend.backend() == "jax" else 0
    assert without_values == [(True, taken), (False, 0)] * 2
    assert all(stored_value(v) is not None for v in model.weights)


@pytest.mark.parametrize("family", models.FAMILIES)
def test_the_layers_below_are_those_that_keras_finds(family):
    model, _ = models.FAMILIES[family]()
    enable(model, LoRA(rank=1), verbose=0)
    for _, chain in walk(model):
        ours = {name: type(value) for name, value in children(chain[-1])}
        theirs = {
            name: type(value)
            for name, value in saving_lib._walk_saveable(chain[-1])
            if isinstance(value, HOLDERS)
        }
        # What is left out are dictionaries of variables and of classes, of our own mixins.
        spared = {"arrays", "trained", "declared", "adapts", "kinds", "reads"}
        spared |= {"active_adapters", "trained_adapters"}  # tuples of names
        assert list(ours.items()) == [(k, v) for k, v in theirs.items() if k not in spared]


def test_walking_computes_no_kernel(monkeypatch):
    """Which it did for every adapted layer and every quantized one, at each step of a verb."""
    model, _ = models.bert()
    enable(model, LoRA(rank=1), verbose=0)
    read = []
    monkeypatch.setattr(AdaptedLayer, "effective_kernel", lambda *args: read.append(args))
    assert len(list(walk(model))) > 30
    assert not read
