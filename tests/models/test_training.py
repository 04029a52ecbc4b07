"""What trains is exactly what was asked for, and all of it moves."""

import keras
import models
import numpy as np
import pytest
from cases import EVERY_METHOD, adapted, batch, build_layer, dense, method_kernel_pairs, shake
from compiled_models import around, compiled
from snapshots import values

import keras_svd_adapters as ksa


@pytest.mark.parametrize(("case", "build", "shape"), method_kernel_pairs(table=EVERY_METHOD))
def test_every_trained_variable_moves(case, build, shape):
    layer = adapted(case, build_layer(build))
    model = compiled(around(layer, shape))
    x = batch((8, *shape[1:]))
    target = batch(tuple(layer(x).shape), seed=1)
    start = values(model.weights)
    model.fit(x, target, batch_size=4, epochs=1, verbose=0)
    trained = {weight.path for weight in model.trainable_weights}
    assert len(trained) == len(layer.base_layer.adapter().trained)
    for path, value in values(model.weights).items():
        moved = not np.array_equal(value, start[path])
        assert moved == (path in trained), path


def test_exactly_the_adapter_trains():
    backbone, _ = models.bert()
    report = ksa.enable(backbone, ksa.SVFT(pattern="banded", d=2))
    assert len(backbone.trainable_weights) == 12
    assert all(weight.name == "m" for weight in backbone.trainable_weights)
    assert report.trainable_parameters == 12 * (16 * 5 - 6)
    assert set(report.trainable_weights) == {w.path for w in backbone.trainable_weights}


def test_train_names_a_layer_and_a_glob():
    model, _, _ = models.classifier()
    ksa.enable(model, ksa.SVF(), train=["head", "*layer_norm/beta"])
    names = [weight.name for weight in model.trainable_weights]
    assert names.count("z") == 12
    assert names.count("beta") == 5
    assert len(names) == 12 + 5 + 2
    assert all(v.trainable for v in model.get_layer("head").weights)


@pytest.mark.parametrize("level", ["model", "backbone", "block", "layer"])
def test_trainable_off_and_on_never_thaws_the_base(level):
    model, backbone, _ = models.classifier()
    ksa.enable(model, ksa.SVF(), train="head")
    block = backbone.get_layer("transformer_layer_1")
    layer = {
        "model": model,
        "backbone": backbone,
        "block": block,
        "layer": block._self_attention_layer._query_dense,
    }[level]
    before = {weight.path for weight in model.trainable_weights}
    layer.trainable = False
    assert {weight.path for weight in model.trainable_weights} < before
    layer.trainable = True
    assert {weight.path for weight in model.trainable_weights} == before


def test_a_frozen_backbone_trains_its_adapter():
    model, backbone, _ = models.classifier()
    backbone.trainable = False
    ksa.enable(backbone, ksa.SVF())
    assert sum(weight.name == "z" for weight in model.trainable_weights) == 12


def test_batch_normalization_of_the_base_stands_still():
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(2),
        ]
    )
    ksa.enable(model, ksa.SVF())
    start = values(model.layers[1].weights)
    compiled(model).fit(batch((8, 6)), batch((8, 2)), verbose=0)
    assert all(np.array_equal(v, start[k]) for k, v in values(model.layers[1].weights).items())
    ksa.merge(model)
    assert model.layers[1].trainable


def test_statistics_that_move_are_saved(tmp_path):
    def build():
        keras.utils.set_random_seed(1)
        dense, norm = keras.layers.Dense(8), keras.layers.BatchNormalization(name="norm")
        return keras.Sequential([keras.Input((6,)), dense, norm, keras.layers.Dense(2)])

    model = build()
    ksa.enable(model, ksa.SVF(), train="*gamma")
    compiled(model).fit(batch((8, 6)), batch((8, 2)), verbose=0)
    ksa.save_adapter(model, tmp_path / "a.keras")
    fresh = build()
    ksa.load_adapter(fresh, tmp_path / "a.keras")
    x = batch((8, 6), seed=5)
    np.testing.assert_array_equal(fresh.predict(x, verbose=0), model.predict(x, verbose=0))


@pytest.mark.parametrize("merged", ["inner", "outer"])
def test_merging_a_part_leaves_no_pin_and_thaws_nothing(merged):
    model, backbone, _ = models.classifier()
    count = len(model.trainable_weights)
    ksa.enable(model, ksa.SVF(), targets="*query")
    if merged == "inner":
        ksa.merge(backbone)
        assert len(model.trainable_weights) == count
        return
    block = backbone.get_layer("transformer_layer_0")
    ksa.merge(block)
    assert [weight.name for weight in model.trainable_weights] == ["z"]
    ksa.merge(model)
    assert len(model.trainable_weights) == count


def test_a_rested_adapter_trains_again():
    backbone, _ = models.bert()
    ksa.enable(backbone, ksa.SVF())
    backbone.trainable = False
    ksa.enable(backbone, ksa.LoRA(rank=2), name="second")
    ksa.set_adapter(backbone, "default")
    assert [weight.name for weight in backbone.trainable_weights] == ["z"] * 12


def test_adapters_side_by_side():
    backbone, x = models.bert()
    ksa.enable(backbone, ksa.SVF(), targets="query")
    ksa.enable(backbone, ksa.LoRA(rank=2), targets="value", name="second")
    assert len(backbone.trainable_weights) == 2 + 4
    ksa.set_adapter(backbone, "second")
    assert len(backbone.trainable_weights) == 4
    ksa.set_adapter(backbone, ["default", "second"])
    assert len(backbone.trainable_weights) == 2 + 4
    shake(backbone)
    y = models.output(backbone(x))
    ksa.merge(backbone)
    np.testing.assert_allclose(models.output(backbone(x)), y, atol=1e-5)


def test_dropout_is_on_the_branch_and_in_training_only():
    build, shape = dense(30, 20)
    base = build_layer(build)
    layer = ksa.LoRADense(base, rank=4, dropout=0.5)
    layer.trainable_weights[1].assign(batch((4, 20)))
    x = batch(shape)
    quiet = [keras.ops.convert_to_numpy(layer(x, training=False)) for _ in range(2)]
    noisy = [keras.ops.convert_to_numpy(layer(x, training=True)) for _ in range(2)]
    np.testing.assert_array_equal(*quiet)
    assert np.abs(noisy[0] - noisy[1]).max() > 0
    layer.trainable_weights[1].assign(np.zeros((4, 20)))
    still = [keras.ops.convert_to_numpy(layer(x, training=mode)) for mode in (False, True)]
    np.testing.assert_array_equal(*still)


def test_biases_train_besides(tmp_path):
    method, biases = (
        ksa.LoRA(rank=2),
        lambda m: [w for w in m.trainable_weights if w.name == "bias"],
    )
    for bias, count in (("none", 0), ("adapted", 2), ("all", 13)):
        backbone, x = models.bert()
        ksa.enable(backbone, method, targets="query", bias=bias)
        assert len(biases(backbone)) == count
        shake(backbone)
        ksa.save_adapter(backbone, tmp_path / "a.keras")
        fresh, _ = models.bert()
        ksa.load_adapter(fresh, tmp_path / "a.keras")
        assert len(biases(fresh)) == count
        np.testing.assert_array_equal(models.output(fresh(x)), models.output(backbone(x)))


@pytest.mark.parametrize(("bias", "words"), [("some", "must be one of"), ("all", "no such bias")])
def test_biases_that_are_not_there(bias, words):
    backbone, _ = models.llama()
    before = [(w.path, w.trainable) for w in backbone.weights]
    with pytest.raises(ValueError, match=words):
        backbone.enable_svf(bias=bias)
    assert [(w.path, w.trainable) for w in backbone.weights] == before


def test_a_layer_that_was_frozen_is_frozen_again_without_its_adapter():
    layers = [keras.layers.Dense(4, name="a"), keras.layers.Dense(3, name="b")]
    model = keras.Sequential([keras.Input((6,)), *layers])
    layers[0].trainable = False
    ksa.enable(model, ksa.SVF(), targets="a")
    assert [w.name for w in model.trainable_weights] == ["z"]
    ksa.delete_adapter(model, "default")
    assert not layers[0].trainable
    assert [w.path.split("/")[-2] for w in model.trainable_weights] == ["b", "b"]


@pytest.mark.parametrize("times", [1, 2])
def test_a_weight_that_was_frozen_is_frozen_again_when_no_adapter_trains_it(times):
    layers = [keras.layers.Dense(4, name="a"), keras.layers.Dense(3, name="b")]
    model = keras.Sequential([keras.Input((6,)), *layers])
    layers[0].trainable = False
    before = [weight.trainable for weight in model.weights]
    for name in ("one", "two")[:times]:
        ksa.enable(model, ksa.SVF(), targets="*", train="*bias", name=name)
    assert layers[0].bias.trainable
    for name in ("one", "two")[:times]:
        ksa.delete_adapter(model, name)
    assert [weight.trainable for weight in model.weights] == before
