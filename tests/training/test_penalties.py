"""Terms of the loss that methods declare: in `fit`, `evaluate` and `losses`, while active."""

import copy

import closed_forms_gated as gated
import keras
import numpy as np
import pytest
from autodiff import loss_gradients
from cases import batch, numpy, shake
from experts import EXPERTS, experts

import keras_svd_adapters as ksa
from keras_svd_adapters import methods
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.models.sites.search import adapted_sites

ADALORA = methods.AdaLoRA(rank=3, orthogonality=0.7)
CASES = {  # the method, its penalty in float64 by array, the weight, and whether it is a mean
    "adalora": (ADALORA, dict.fromkeys(["lora_a", "lora_b"], gated.orthogonality), 0.7, True),
    "dynamic_dora": (
        methods.DynamicDoRA(rank=3, variance_weight=0.4),
        dict.fromkeys(["lora_a", "lora_b"], gated.variance),
        0.4,
        True,
    ),
    "diff_pruning": (
        methods.DiffPruning(penalty=0.2, openness=0.5),
        dict.fromkeys(["log_alpha", "group"], gated.open_gates),
        0.2,
        False,
    ),
}
X, Y = batch((6, 8)), batch((6, 3), seed=4)


def build():
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(size, name=f"hidden_{size}") for size in (10, 7)]
    return keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(3, name="head")])


def adapted(method=ADALORA, name="default", targets="hidden_*"):
    model = build()
    ksa.enable(model, method, targets, name=name)
    return model


def compiled(model, optimizer="sgd"):
    model.compile(optimizer, "mse")
    return model


def loss_of(model):
    return compiled(model).evaluate(X, Y, verbose=0)


def mse(model):
    return float(np.mean((model.predict(X, verbose=0) - Y) ** 2))


def total(model):
    return float(sum(numpy(loss) for loss in model.losses))


@pytest.mark.parametrize(("method", "forms", "weight", "is_mean"), CASES.values(), ids=CASES)
def test_value_and_gradient(method, forms, weight, is_mean):
    model = adapted(method)
    shake(model)
    expected, slopes, count = 0.0, {}, 0
    for site in adapted_sites(model):
        for name, form in forms.items():
            array = adapters_of(site.layer)["default"].arrays[name]
            value = numpy(array).astype("float64")
            turned = name == "lora_b"
            penalty, slope = form(value.T if turned else value)
            expected, count = expected + penalty, count + 1
            slopes[array.path] = slope.T if turned else slope
    factor = weight / count if is_mean else weight
    np.testing.assert_allclose(total(model), factor * expected, rtol=1e-5)
    found = loss_gradients(model)
    for variable, gradient in zip(model.trainable_weights, found, strict=True):
        wanted = factor * slopes.get(variable.path, np.zeros(variable.shape))
        np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-7)


def test_fit_and_evaluate_agree():
    model = adapted()
    shake(model)
    expected = mse(model) + total(model)
    compiled(model, keras.optimizers.SGD(0.0))
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(expected, rel=1e-5)
    history = model.fit(X, Y, verbose=0)
    assert history.history["loss"][0] == pytest.approx(expected, rel=1e-5)


def test_a_step_follows_the_penalty_alone_while_the_gates_are_closed():
    model = adapted()
    before = [numpy(w) for w in model.trainable_weights]
    slopes = loss_gradients(model)
    compiled(model, keras.optimizers.SGD(0.5)).fit(X, Y, verbose=0)
    for weight, was, slope in zip(model.trainable_weights, before, slopes, strict=True):
        if weight.name != "gate":
            assert np.abs(slope).max() > 1e-3
            np.testing.assert_allclose(numpy(weight), was - 0.5 * slope, rtol=1e-4, atol=1e-6)


def test_it_counts_for_the_active_adapter_alone():
    model = adapted(name="a")
    one = total(model)
    ksa.enable(model, methods.DynamicDoRA(rank=2), "hidden_10", name="b")
    other = total(model)
    assert len(model.losses) == 2 + 2, "of b on one layer, and of a on the other"
    ksa.set_adapter(model, "a")
    assert total(model) == pytest.approx(one)
    assert other != pytest.approx(one)
    ksa.set_adapter(model, None)
    assert loss_of(model) == pytest.approx(mse(model))
    assert not model.losses
    ksa.set_adapter(model, "a")
    ksa.delete_adapter(model, "b")
    assert loss_of(model) == pytest.approx(mse(model) + one, rel=1e-5)


def test_a_model_without_its_adapter_has_no_penalty():
    model = adapted()
    shake(model)
    full = loss_of(model)
    with ksa.disabled(model):
        assert model.evaluate(X, Y, verbose=0) == pytest.approx(mse(model), rel=1e-5)
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(full)
    ksa.merge(model)
    assert loss_of(model) == pytest.approx(mse(model), rel=1e-5)
    ksa.unmerge(model)
    assert loss_of(model) == pytest.approx(full, rel=1e-5)


def test_it_comes_back_from_files(tmp_path):
    model = adapted()
    shake(model)
    expected = loss_of(model)
    model.save(tmp_path / "m.keras")
    ksa.save_adapter(model, tmp_path / "a.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    loaded, with_weights = build(), adapted()
    ksa.load_adapter(loaded, tmp_path / "a.keras")
    with_weights.load_weights(tmp_path / "m.weights.h5")
    whole = keras.saving.load_model(tmp_path / "m.keras")
    for again in (whole, loaded, with_weights, copy.deepcopy(model)):
        assert loss_of(again) == pytest.approx(expected, rel=1e-5)
        assert total(again) == pytest.approx(total(model), rel=1e-6)


def test_the_mean_is_over_all_kernels_of_an_adapter():
    model = adapted(targets="hidden_10")
    alone = total(model)
    ksa.delete_adapter(model, "default")
    parts = {"hidden_10": ADALORA, "hidden_7": methods.AdaLoRA(rank=2, orthogonality=0.7)}
    ksa.enable(model, targets=parts)
    means = [float(numpy(loss)) for loss in model.losses]
    assert len(means) == 4
    assert sum(means[:2]) == pytest.approx(alone / 2, rel=0.1)
    whole = keras.Sequential([keras.Input((8,)), model])
    assert total(whole) == pytest.approx(sum(means))


def test_a_verb_on_a_part_of_the_model_leaves_the_mean():
    inner = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6, name="inside")])
    whole = keras.Sequential([keras.Input((8,)), inner, keras.layers.Dense(5, name="outside")])
    ksa.enable(whole, ADALORA, ["*inside", "*outside"])
    expected = total(whole)
    ksa.set_adapter(inner, None)
    ksa.set_adapter(inner, "default")
    assert total(whole) == pytest.approx(expected)
    assert total(inner) == pytest.approx(expected / 2, rel=0.1)


def test_stacked_kernels():
    layer = experts()
    ksa.enable(layer, ADALORA)
    shake(layer)
    expected = [
        gated.orthogonality(array)[0]
        for site in adapted_sites(layer)
        for v in adapters_of(site.layer)["default"].numpy_values()
        for array in (v.lora_a, v.lora_b.T)
    ]
    assert len(expected) == 2 * EXPERTS * len(adapted_sites(layer))
    np.testing.assert_allclose(total(layer), 0.7 * np.mean(expected), rtol=1e-5)


def test_a_schedule_ends_it_without_another_trace():
    model = compiled(adapted(methods.DynamicDoRA(rank=3)))
    assert model.evaluate(X, Y, verbose=0) > mse(model) + 1e-3
    function = model.test_function
    for site in adapted_sites(model):
        adapters_of(site.layer)["default"].penalty_weight.assign([0.0])
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(mse(model), rel=1e-5)
    assert model.test_function is function


def test_float32_in_any_dtype():
    layer = keras.layers.Dense(6, dtype="bfloat16")
    layer.build((None, 8))
    ksa.enable(layer, ADALORA)
    assert {keras.backend.standardize_dtype(loss.dtype) for loss in layer.losses} == {"float32"}


def test_the_gradient_of_orthogonal_factors_is_finite():
    model = adapted()
    for weight in model.trainable_weights:
        if weight.name != "gate":
            weight.assign(np.eye(*weight.shape))
    assert total(model) < 1e-6
    assert all(np.isfinite(slope).all() for slope in loss_gradients(model))


@pytest.mark.parametrize(
    "bad",
    [
        lambda: methods.AdaLoRA(orthogonality=-1.0),
        lambda: methods.DynamicDoRA(variance_weight=-0.1),
        lambda: methods.DiffPruning(penalty=0.0),
    ],
)
def test_bad_weights(bad):
    with pytest.raises(ValueError, match="Received:"):
        bad()
