"""Weight decay and learning rates where adapters train."""

import warnings

import keras
import numpy as np
import pytest
from cases import METHODS, adapted, batch, build_layer, dense
from compiled_models import RATE, around, compiled
from snapshots import values

import keras_svd_adapters as ksa


def test_a_callable_rate_of_a_plain_model():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    compiled(model, keras.optimizers.Adam(lambda: 1e-3))
    model.fit(batch((8, 4)), batch((8, 2)), verbose=0)


@pytest.mark.parametrize("name", ["svf", "lora", "svft_banded"])
def test_weight_decay_never_pulls_towards_a_start_that_is_not_zero(name):
    case = METHODS[name]
    layer = adapted(case, build_layer(dense(12, 40)[0]))
    weights = layer.trainable_weights
    start = values(weights)
    optimizer = keras.optimizers.AdamW(RATE, weight_decay=0.9)
    for _ in range(5):
        optimizer.apply([keras.ops.zeros(weight.shape) for weight in weights], weights)
    for weight in weights:
        np.testing.assert_array_equal(weight.numpy(), start[weight.path])
    control = keras.Variable(np.ones(3))
    optimizer = keras.optimizers.AdamW(RATE, weight_decay=0.9)
    optimizer.apply([keras.ops.zeros(3)], [control])
    assert control.numpy().max() < 1


def test_weight_decay_keeps_what_the_user_excluded():
    build, shape = dense(12, 40)
    layer = adapted(METHODS["lora"], build_layer(build))
    optimizer = keras.optimizers.AdamW(RATE)
    model = around(layer, shape)
    model.add(keras.layers.Dense(3))
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    compiled(model, optimizer).fit(batch(shape), batch((5, 3)), verbose=0)
    decays = [w.name for w in model.trainable_weights if optimizer._use_weight_decay(w)]
    assert decays == ["lora_b", "kernel"]


@pytest.mark.parametrize(
    ("rate", "warns"),
    [
        (2e-5, True),
        (1e-2, False),
        (keras.optimizers.schedules.ExponentialDecay(2e-5, 10, 0.9), True),
        (
            keras.optimizers.schedules.CosineDecay(0.0, 99, warmup_target=1e-2, warmup_steps=9),
            False,
        ),
    ],
)
def test_a_rate_at_which_nothing_moves_warns(rate, warns):
    build, shape = dense(12, 40)
    model = compiled(
        around(adapted(METHODS["svf"], build_layer(build)), shape), keras.optimizers.Adam(rate)
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(batch(shape), batch((5, 40)), verbose=0)
    said = [str(w.message) for w in caught if "learning rate" in str(w.message)]
    assert bool(said) == warns
    assert all("SVF()" in text and "Received: learning_rate" in text for text in said)


@pytest.mark.parametrize(("rate", "shown"), [(1e-2, None), (2e-5, "2.0e-05")])
def test_a_rate_under_loss_scaling_is_the_inner_one(rate, shown):
    build, shape = dense(12, 40)
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(rate))
    model = compiled(around(adapted(METHODS["svf"], build_layer(build)), shape), optimizer)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(batch(shape), batch((5, 40)), verbose=0)
    said = [str(w.message) for w in caught if "learning rate" in str(w.message)]
    assert len(said) == (shown is not None)
    assert all(f"Received: learning_rate={shown}" in text for text in said)


@pytest.mark.parametrize(
    ("optimizer", "warns"),
    [
        (keras.optimizers.Adam(0.6), True),
        (keras.optimizers.AdamW(0.6), True),
        (keras.optimizers.Lion(0.6), True),
        (keras.optimizers.Adam(0.2), False),
        (keras.optimizers.SGD(0.6), False),
    ],
    ids=["adam", "adamw", "lion", "adam_lower", "sgd"],
)
def test_a_rate_that_is_far_too_high_warns(optimizer, warns):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    ksa.enable(model, ksa.SVF())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer.build(model.trainable_variables)
    said = [str(w.message) for w in caught if "will probably diverge" in str(w.message)]
    assert bool(said) == warns
    assert all("SVF() will" in text and "of about 3.0e-02" in text for text in said)


def test_a_switch_warns_of_an_optimizer_only_if_it_loses_steps():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    ksa.enable(model, ksa.SVF())
    compiled(model)
    x, y = batch((8, 4)), batch((8, 2))
    model.optimizer.build(model.trainable_variables)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The optimizer of")
        ksa.enable(model, ksa.LoRA(rank=2), name="second")
    model.fit(x, y, verbose=0)
    with pytest.warns(UserWarning, match="The optimizer of .* starts at step 0"):
        ksa.delete_adapter(model, "second")
