"""Starts that read data: their factors, their files, and models away from the base."""

import keras
import numpy as np
import pytest
import rate_models
from autodiff import gradients
from cases import DTYPES, batch, combinations, numpy, shake
from closed_forms_sparse import pri_lora
from closed_forms_starts import lora_from_start, lora_sb

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.methods.statistics import Inputs, Statistics
from keras_svd_adapters.models.observation.moments import ComponentSums, InputSums, Products

X, Y = rate_models.data()
LORA = {
    name: ksa.LoRA(rank=2, alpha=6, start=name) for name in ("corda", "corda_kpm", "eva", "lora_ga")
} | {
    "corda_fa": ksa.LoRA(rank=2, start="corda", freeze="a"),
    "eva_fa": ksa.LoRA(rank=2, start="eva", freeze="a"),
}
FURTHER = {
    "lora_sb": ksa.methods.LoRASB(rank=2, step=0.01),
    "pri_lora": ksa.methods.PRILoRA(rank=2),
}
METHODS = LORA | FURTHER
CLOSED_FORMS = {"lora_sb": lora_sb, "pri_lora": pri_lora}
RNG = np.random.default_rng(4)
K = RNG.normal(size=(9, 7)).astype("float32")
ROWS = RNG.normal(size=(50, 9)) * np.geomspace(1, 0.1, 9) + 0.3
G = RNG.normal(size=(9, 7))


def sums_of_rows(sums):
    sums.add(ROWS)
    return sums.statistics()


DATA = Statistics(
    inputs=sums_of_rows(InputSums(Products())),
    gradient=G,
    components=sums_of_rows(ComponentSums(Products(), 3)),
)


def factors(start, **options):
    method = ksa.LoRA(rank=3, start=start, **options)
    values = method.first_values(K, "additive", RNG, None, DATA)
    return values["lora_a"], values.get("lora_b")


def adapted(method, dtype="float32"):
    model = rate_models.network(statistics=False, dtype=dtype)
    model.compile(loss="mse")
    ksa.enable(model, method, targets="second", calibrate=(X, Y))
    return model, model.get_layer("second").adapter()


def same_space(found, expected):
    """Two matrices whose columns span one space: the cosines of all angles are 1."""
    one, other = np.linalg.qr(found)[0], np.linalg.qr(expected)[0]
    np.testing.assert_allclose(np.linalg.svd(one.T @ other)[1], 1, atol=1e-9)


@pytest.mark.optimized("equal in every bit")
@pytest.mark.parametrize(("name", "dtype"), combinations(LORA, DTYPES))
def test_it_equals_its_base(name, dtype):
    base = rate_models.network(statistics=False, dtype=dtype)
    expected = numpy(base(X))
    base.compile(loss="mse")
    ksa.enable(base, METHODS[name], targets="second", calibrate=(X, Y))
    np.testing.assert_array_equal(numpy(base(X)), expected)
    found = gradients(base, X, batch(expected.shape))
    assert any(np.abs(gradient).max() > 1e-3 for gradient in found)


@pytest.mark.parametrize("name", METHODS)
def test_against_closed_form(name):
    model, adapter = adapted(METHODS[name])
    layer = model.get_layer("second")
    layer.activation = keras.activations.linear
    shake(model)
    values = {key: numpy(v).astype("float64") for key, v in adapter.arrays.items()}
    closed_form = CLOSED_FORMS.get(name, lora_from_start)
    kernel, expected = closed_form(numpy(layer.base_kernel_value()), METHODS[name], values)
    x, g = batch((5, 8)), batch((5, 8), seed=4)
    np.testing.assert_allclose(numpy(layer(x)), x @ kernel + numpy(layer.bias), atol=1e-5)
    found = gradients(layer, x, g)
    for weight, gradient in zip(layer.trainable_weights, found, strict=True):
        np.testing.assert_allclose(gradient, expected(x.T @ g)[weight.name], atol=1e-4)
    np.testing.assert_allclose(numpy(layer.merged_kernel()), kernel, atol=1e-6)


@pytest.mark.parametrize(("start", "part"), [("corda", slice(0, 3)), ("corda_kpm", slice(4, 7))])
def test_corda(start, part):
    """`C A0 B0` is the part of `C K` in some triplets, and both factors have equal weight."""
    A, B = factors(start, alpha=12)
    second = ROWS.T @ ROWS / len(ROWS)
    C = second + 0.01 * np.trace(second) / 9 * np.eye(9)
    U, s, Vt = np.linalg.svd(C @ K)
    np.testing.assert_allclose(4 * C @ A @ B, U[:, part] * s[part] @ Vt[part], atol=1e-8)
    np.testing.assert_allclose(np.linalg.norm(B, axis=1) ** 2, s[part] / 4)


def test_corda_on_no_input_is_the_svd():
    nothing = Statistics(Inputs(5, np.zeros(9), np.zeros((9, 9))))
    method = ksa.LoRA(rank=3, start="corda")
    values = method.first_values(K, "additive", RNG, None, nothing)
    U, s, Vt = np.linalg.svd(K)
    expected = U[:, :3] * s[:3] @ Vt[:3]
    np.testing.assert_allclose(values["lora_a"] @ values["lora_b"], expected, atol=1e-5)


def test_eva_finds_the_components_around_the_mean():
    A, B = factors("eva")
    assert B is None
    Vt = np.linalg.svd(ROWS - ROWS.mean(axis=0))[2]
    np.testing.assert_allclose(np.abs(A.T @ Vt[:3].T), np.eye(3), atol=1e-9)


def three_layers(spectra):
    """Layers whose inputs have these standard deviations, and the data."""
    inputs = [keras.Input((len(s),), name=f"x{i}") for i, s in enumerate(spectra)]
    dense = [keras.layers.Dense(6, name=f"d{i}")(x) for i, x in enumerate(inputs)]
    x = {f"x{i}": RNG.normal(size=(64, len(s))) * s for i, s in enumerate(spectra)}
    return keras.Model(inputs, keras.layers.add(dense)), x


@pytest.mark.parametrize("options", [{}, {"alpha": 3}, {"rslora": True}, {"alpha": 8, "rho": 1.4}])
def test_eva_moves_ranks(options, tmp_path):
    """Kernels get the components with the largest shares; the budget and the scale stay."""
    method = ksa.LoRA(**{"rank": 3, "start": "eva", "rho": 2.0} | options)
    model, x = three_layers([[9, 9, 1, 1, 1, 1, 1], [1] * 9, [3, 1e-9, 1e-9, 1e-9, 1e-9]])
    report = ksa.enable(model, method, targets="d*", calibrate=x)
    shares = []
    for i in range(3):
        variances = np.linalg.svd(x[f"x{i}"] - x[f"x{i}"].mean(axis=0))[1] ** 2
        shares += [(s / variances.sum(), i) for s in variances[: round(method.rho * 3)]]
    ranks = [sum(i == j for _, j in sorted(shares)[-9:]) for i in range(3)]
    assert len(set(ranks)) > 1
    for i, rank in enumerate(ranks):
        own = adapters_of(model.get_layer(f"d{i}"))["default"].method
        assert (own.rank, own.scale, own.rho) == (rank, pytest.approx(method.scale), 1)
    assert "LoRA" in str(report)
    shake(model)
    expected = numpy(model(x))
    ksa.save_adapter(model, tmp_path / "a.keras")
    ksa.delete_adapter(model, "default")
    ksa.load_adapter(model, tmp_path / "a.keras")
    np.testing.assert_array_equal(numpy(model(x)), expected)


def test_a_kernel_without_a_rank_has_no_adapter():
    model, x = three_layers([[9, 8, 1e-9, 1e-9], [1] * 40])
    before = numpy(model(x))
    ksa.enable(model, ksa.LoRA(rank=1, start="eva", rho=2.0), targets="d*", calibrate=x)
    np.testing.assert_array_equal(numpy(model(x)), before)
    assert adapters_of(model.get_layer("d0"))["default"].method.rank == 2
    assert not adapters_of(model.get_layer("d1"))
    assert len(model.trainable_weights) == 2


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rho": 0.5}, "from 1. Received: rho=0.5"),
        ({"rho": 2, "start": "corda"}, "Only `start='eva'"),
    ],
)
def test_ranks_that_cannot_move(options, match):
    with pytest.raises(ValueError, match=match):
        ksa.LoRA(rank=2, **{"start": "eva"} | options)


def test_lora_ga():
    A, B = factors("lora_ga")
    U, s, Vt = np.linalg.svd(G)
    np.testing.assert_allclose(np.abs(A.T @ U[:, :3]), np.eye(3), atol=1e-9)
    expected = 7**0.25 / 4 * s[3:6, None] * Vt[3:6]
    np.testing.assert_allclose(np.abs(B @ Vt[3:6].T), np.abs(expected @ Vt[3:6].T), atol=1e-9)
    same_space(B.T, Vt[3:6].T)


def test_lora_sb_starts_one_step_away():
    method = METHODS["lora_sb"]
    values = method.first_values(K, "additive", RNG, None, DATA)
    U, s, Vt = np.linalg.svd(-0.01 * np.sign(G))
    update = values["U"] @ values["latent"] @ values["Vt"]
    np.testing.assert_allclose(update, U[:, :2] * s[:2] @ Vt[:2], atol=1e-12)
    assert (update * G).sum() < 0
    model = rate_models.network(statistics=False)
    model.compile(loss="mse")
    before = model.evaluate(X, Y, verbose=0)
    planned = str(ksa.plan(model, method, targets="second"))
    assert "starts away from the base model on purpose" in planned
    assert "`enable` needs `calibrate=`" in planned
    report = ksa.enable(model, method, targets="second", calibrate=(X, Y))
    assert model.evaluate(X, Y, verbose=0) < before
    layer = model.get_layer("second")
    update = numpy(layer.merged_kernel()) - numpy(layer.base_kernel_value())
    far = np.linalg.norm(update) / np.linalg.norm(numpy(layer.base_kernel_value()))
    assert report.distances["second"] == pytest.approx(far, rel=1e-3)
    assert f"differ from the base's by {far:.2g} of their norm" in str(report)
    assert "on purpose" not in str(ksa.plan(model, ksa.SVF(), targets="second", name="b"))


@pytest.mark.parametrize("name", METHODS)
def test_files_need_no_data(name, tmp_path):
    model, _ = adapted(METHODS[name])
    shake(model)
    expected = numpy(model(X))
    ksa.save_adapter(model, tmp_path / "start.keras")
    model.save(tmp_path / "model.keras")
    layer = model.get_layer("second")
    kept = {weight.path: numpy(weight) for weight in model.weights}
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(again(X)), expected)
    ksa.delete_adapter(model, "default")
    assert not adapters_of(layer)
    ksa.load_adapter(model, tmp_path / "start.keras")
    np.testing.assert_array_equal(numpy(model(X)), expected)
    assert {weight.path: numpy(weight).tobytes() for weight in model.weights} == {
        path: value.tobytes() for path, value in kept.items()
    }


@pytest.mark.parametrize("name", METHODS)
def test_it_leaves_as_a_lora(name):
    model, _ = adapted(METHODS[name])
    shake(model)
    expected = numpy(model(X))
    assert ksa.to_lora(model).error < 1e-6
    np.testing.assert_allclose(numpy(model(X)), expected, atol=1e-5)


def test_two_tasks_of_one_calibration_add():
    model, _ = adapted(METHODS["eva_fa"])
    ksa.enable(model, METHODS["eva_fa"], targets="second", name="b", calibrate=X)
    for seed, name in enumerate(("default", "b")):
        ksa.set_adapter(model, name)
        shake(model, seed=seed)
    one, other = (adapters_of(model.get_layer("second"))[name] for name in ("default", "b"))
    ksa.combine(model, {"default": 0.5, "b": 2.0}, into="sum", how="linear")
    K = model.get_layer("second").base_kernel_value()
    total = 0.5 * numpy(one.delta(K)) + 2.0 * numpy(other.delta(K))
    found = adapters_of(model.get_layer("second"))["sum"].delta(K)
    np.testing.assert_allclose(numpy(found), total, atol=1e-5)
