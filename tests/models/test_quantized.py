"""Adapters on layers whose kernels Keras quantized."""

import importlib

import keras
import models
import numpy as np
import pytest
from autodiff import gradients
from cases import KERNELS, METHODS, batch, build_layer, combinations, numpy, shake
from keras.quantizers import AbsMaxQuantizer, Int4QuantizationConfig

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.attachment import attach
from keras_svd_adapters.adapters.layer_kinds import base_kernel_value
from keras_svd_adapters.adapters.requantization import quantized_kernel
from keras_svd_adapters.kernels.quantized import mode_of
from keras_svd_adapters.models.sites.search import find_sites
from keras_svd_adapters.runtime.host_values import to_host_exact

backend_free = pytest.mark.backend_free("whole models of layers that each backend tests")

MODES = {
    "int8": ("int8", None),
    "int4": ("int4", Int4QuantizationConfig(block_size=None)),
    "int4 grouped": ("int4", Int4QuantizationConfig(block_size=8)),
}
TOLERANCE = {"int8": 2e-2, "int4": 5e-2}
FEW = ("tall", "btd,ndh->btnh")
SOME = ("tall", "wide", "btd,ndh->btnh", "btnh,nhd->btd")
CASES = {
    name: case
    for name, case in METHODS.items()
    if case.exact_at_start and not case.square_only and name != "token_rows"
}
ROWS = [
    pytest.param(CASES[name], kernel, mode, id=f"{name}-{kernel}-{mode}")
    for name, kernel, mode in combinations(CASES, SOME, MODES)
]


def quantized(kernel, mode, dtype="float32"):
    """A quantized layer, and an input."""
    build, shape = KERNELS[kernel]
    layer = build(dtype)
    layer.kernel.assign(batch(layer.kernel.shape, seed=5))
    if layer.bias is not None:
        layer.bias.assign(batch(layer.bias.shape, seed=6))
    how, config = MODES[mode]
    layer.quantize(how, config=config)
    return layer, batch(shape)


def dequantized(kernel, layer):
    """The float layer that the quantized one stands for."""
    build, _ = KERNELS[kernel]
    plain = build("float32")
    plain.kernel.assign(base_kernel_value(layer))
    if plain.bias is not None:
        plain.bias.assign(numpy(layer.bias))
    return plain


def norm(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize(("kernel", "mode"), combinations(SOME, MODES))
def test_the_float_kernel_is_what_the_layer_multiplies_with(kernel, mode):
    layer, x = quantized(kernel, mode)
    layer.activation = None
    if layer.bias is not None:
        layer.bias.assign(np.zeros(layer.bias.shape))
    (site,) = find_sites(layer)
    unit = numpy(site.view.unflatten_input(keras.ops.eye(site.view.m)))
    unit = unit.reshape(site.view.m, *(1,) * (x.ndim - unit.ndim), *unit.shape[1:])
    rows = numpy(site.view.flatten_output(layer(unit)))
    np.testing.assert_allclose(rows.reshape(site.view.m, -1), site.matrix(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("case", "kernel", "mode"), ROWS)
def test_outputs_and_gradients(case, kernel, mode):
    layer, x = quantized(kernel, mode)
    plain = dequantized(kernel, layer)
    before = numpy(layer(x))
    ksa.enable(layer, case.method, targets=[layer.name])
    np.testing.assert_array_equal(numpy(layer(x)), before)
    shake(layer)
    ksa.enable(plain, case.method, targets=[plain.name])
    adapter = layer.adapter()
    assert adapter.compute_dtype == "float32"
    reference = plain.adapter()
    if adapter.method.needs_svd:  # its form may be another one: give it the same values
        ksa.delete_adapter(plain, "default")
        (site,) = find_sites(plain)
        values = {name: numpy(v) for name, v in adapter.arrays.items()}
        for weight in plain.weights:
            weight.trainable = False
        attach(plain, "default", site.new_adapter(adapter.method, adapter.form, "default", values))
    else:
        for name, variable in adapter.arrays.items():
            getattr(reference, name).assign(variable)
    tolerance = TOLERANCE[mode_of(layer)]
    y, expected = numpy(layer(x)), numpy(plain(x))
    assert norm(y, expected) < tolerance
    g = batch(y.shape, seed=9)
    for found, right in zip(gradients(layer, x, g), gradients(plain, x, g), strict=True):
        assert norm(found, right) < tolerance
    np.testing.assert_allclose(
        numpy(layer.merged_kernel()), numpy(plain.merged_kernel()), rtol=0, atol=1e-5
    )


def language_model(mode):
    """A language model, quantized, and one of floats with the same values."""
    keras.utils.set_random_seed(4)
    model, floats = (models.gemma(num_layers=1, num_key_value_heads=1) for _ in range(2))
    floats.set_weights(model.get_weights())
    how, config = MODES[mode]
    model.quantize(how, config=config)
    for site, rounded_site in zip(find_sites(floats), find_sites(model), strict=True):
        if not site.host.is_lookup:
            site.layer.kernel.assign(base_kernel_value(rounded_site.layer))
    table = model.backbone.token_embedding
    if mode == "int8":
        values = numpy(table.embeddings).astype("float32") / numpy(table.embeddings_scale)[:, None]
        floats.backbone.token_embedding.embeddings.assign(values)
    return model, floats


def tokens():
    ids = np.random.default_rng(2).integers(1, 40, size=(4, 12)).astype("int32")
    return {"token_ids": ids, "padding_mask": np.ones_like(ids)}


@backend_free
@pytest.mark.parametrize("method", [ksa.LoRA(rank=2), ksa.SVF()], ids=str)
def test_an_int8_language_model_has_the_gradient_of_its_floats(method):
    found = []
    model, floats = language_model("int8")
    before = numpy(model(tokens()))
    for each in (model, floats):
        keras.utils.set_random_seed(5)
        ksa.enable(each, method, targets="attention", cache=False)
        if each is model:
            np.testing.assert_allclose(numpy(each(tokens())), before, rtol=0, atol=1e-5)
        rng = np.random.default_rng(1)
        for site in ksa.targets(each, "attention").sites:
            for name, variable in site.layer.adapter().trained.items():
                shape = variable.shape
                variable.assign(0.1 * rng.normal(size=shape) + (1.0 if name == "z" else 0.0))
        g = batch((4, 12, 40), seed=9)
        found.append(np.concatenate([x.ravel() for x in gradients(each, tokens(), g)]))
    rough, right = found
    assert rough @ right > 0.98 * np.linalg.norm(rough) * np.linalg.norm(right)


@pytest.mark.parametrize("mode", MODES)
def test_a_quantized_language_model_learns(mode):
    model, _ = language_model(mode)
    ksa.enable(model, ksa.LoRA(rank=4))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss)
    x = tokens()
    y = np.roll(x["token_ids"], -1, axis=1)
    history = model.fit(x, y, epochs=12, verbose=0).history["loss"]
    assert history[-1] < 0.8 * history[0]


def test_a_quantized_model_is_saved_with_its_adapter(tmp_path):
    model, _ = language_model("int8")
    ksa.enable(model, ksa.SVFT(pattern="banded", d=1))
    shake(model)
    expected = numpy(model(tokens()))
    ksa.save_adapter(model, tmp_path / "adapter.keras")
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(numpy(loaded(tokens())), expected, rtol=0, atol=1e-6)
    ksa.delete_adapter(model, "default")
    ksa.load_adapter(model, tmp_path / "adapter.keras")
    np.testing.assert_allclose(numpy(model(tokens())), expected, rtol=0, atol=1e-6)


@backend_free
@pytest.mark.parametrize("mode", MODES)
def test_an_adapter_fits_floats_and_integers(mode, tmp_path):
    floats = models.gemma(num_layers=1, num_key_value_heads=1)
    model = models.gemma(num_layers=1, num_key_value_heads=1)
    model.set_weights(floats.get_weights())
    how, config = MODES[mode]
    model.quantize(how, config=config)
    for one, other in ((floats, model), (model, floats)):
        ksa.enable(one, ksa.LoRA(rank=2))
        shake(one)
        ksa.save_adapter(one, tmp_path / "adapter.keras")
        with pytest.warns(UserWarning, match="The adapter was trained on .* kernels. These are"):
            ksa.load_adapter(other, tmp_path / "adapter.keras")
        far = {"int8": 0.1, "int4": 0.3}[how]
        assert norm(numpy(one(tokens())), numpy(other(tokens()))) < far
        for each in (one, other):
            ksa.delete_adapter(each, "default")


@backend_free
def test_what_float_kernels_have_more_than_integers_is_extracted(recwarn):
    model, floats = language_model("int8")
    for site in find_sites(floats):
        if not site.host.is_lookup:
            kernel = site.layer.kernel
            kernel.assign_add(0.1 * batch(kernel.shape, seed=8))
    ksa.extract_lora(model.backbone, floats.backbone, rank=4)
    told = [str(w.message) for w in recwarn if "differ" in str(w.message)]
    assert not any("kernel" in text.split("Name the kernels")[0] for text in told)


@backend_free
def test_what_quantized_kernels_refuse():
    model, _ = language_model("int8")
    before = [w.path for w in model.weights]
    with pytest.raises(ValueError, match="formulation='auto'.*Received"):
        ksa.enable(model, ksa.SVF(formulation="factored"))
    assert [w.path for w in model.weights] == before
    ksa.enable(model, ksa.SVF())
    for wrong in (None, "int8"):
        with pytest.raises(ValueError, match="quantized.*float.*requantize.*Received"):
            ksa.merge(model, quantized=wrong)
    with pytest.raises(ValueError, match="`save_adapter`, `delete_adapter`, `model.quantize`"):
        model.quantize("int4")


LOGITS = {
    "int8": ("int8", None),
    "int4": (
        "int4",
        Int4QuantizationConfig(block_size=None, activation_quantizer=AbsMaxQuantizer(axis=-1)),
    ),
}


@pytest.mark.parametrize(("mode", "tied", "cap"), combinations(LOGITS, [True, False], [None, 3.0]))
def test_logits_of_integers_have_the_gradient_of_floats(mode, tied, cap):
    table = keras.layers.ReversibleEmbedding(20, 8, tie_weights=tied, logit_soft_cap=cap)
    table.build()
    for weight in table.weights:
        weight.assign(batch(weight.shape, seed=3))

    class Logits(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.table = table

        def call(self, x):
            return self.table(x, reverse=True)

    before = keras.layers.Dense(8, name="before")
    model = keras.Sequential([keras.Input((6,)), before, Logits()])
    how, config = LOGITS[mode]
    table.quantize(how, config=config)
    plain = type(table)
    ksa.enable(model, ksa.LoRA(rank=2), targets="before")
    shake(model)
    x, g = batch((5, 6)), batch((5, 20), seed=9)
    object.__setattr__(table, "logit_soft_cap", None)
    floats = numpy(table(keras.ops.eye(8), reverse=True))
    object.__setattr__(table, "logit_soft_cap", cap)
    slope = 1.0 if cap is None else 1 - np.tanh(numpy(before(x)) @ floats / cap) ** 2
    expected = gradients(before, x, (g * slope) @ floats.T)
    for found, right in zip(gradients(model, x, g), expected, strict=True):
        assert norm(found, right) < 2e-2
    ksa.delete_adapter(model, "default")
    assert type(table) is plain


@pytest.mark.parametrize(
    ("method", "kernel", "mode"), combinations([ksa.DoRA(rank=2), ksa.SVF()], FEW, MODES), ids=str
)
def test_integers_merge_to_floats(method, kernel, mode):
    layer, x = quantized(kernel, mode)
    plain = dequantized(kernel, layer)
    order, before = [w.name for w in plain.weights], [to_host_exact(w) for w in layer.weights]
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    ksa.enable(model, method, targets=[layer.name])
    shake(model)
    expected = numpy(model(x))
    wanted = numpy(layer.merged_kernel())
    report = ksa.merge(model, quantized="float")
    assert report.relative < 1e-5
    assert layer.quantization_mode is None
    assert layer.compute_dtype == "float32"
    assert [w.name for w in layer.weights] == order
    assert layer.kernel.trainable
    np.testing.assert_allclose(numpy(layer.kernel), wanted, rtol=0, atol=1e-6)
    assert norm(numpy(model(x)), expected) < TOLERANCE[mode.split()[0]]
    again = keras.Sequential.from_config(model.get_config())
    again.build(model.input_shape)
    again.set_weights(model.get_weights())
    np.testing.assert_allclose(numpy(again(x)), numpy(model(x)), rtol=0, atol=1e-6)
    ksa.unmerge(model)
    np.testing.assert_array_equal(numpy(model(x)), expected)
    ksa.delete_adapter(model, "default")
    assert mode_of(layer) == mode.split()[0]
    for now, then in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(to_host_exact(now), then)
    layer.quantized_call(x)


@pytest.mark.parametrize(("kernel", "mode"), combinations(FEW, MODES))
def test_integers_merge_to_integers(kernel, mode):
    layer, x = quantized(kernel, mode)
    before = [to_host_exact(w) for w in layer.weights]
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    ksa.enable(model, ksa.LoRA(rank=2), targets=[layer.name])
    shake(model, 0.5)
    wanted, expected = numpy(layer.merged_kernel()), numpy(model(x))
    report = ksa.merge(model, quantized="requantize")
    lost = norm(numpy(base_kernel_value(layer)), wanted)
    assert 0 < lost < {"int8": 0.01, "int4": 0.1}[mode_of(layer)]
    (told,) = report.kernels
    assert 0 < told.lost < 1
    assert told.relative < 0.2
    change = numpy(base_kernel_value(layer)) - wanted
    delta = wanted - base_of(before, layer)
    np.testing.assert_allclose(told.lost, np.linalg.norm(change) / np.linalg.norm(delta), rtol=1e-3)
    assert norm(numpy(model(x)), expected) < 4 * TOLERANCE[mode_of(layer)]
    ksa.unmerge(model)
    np.testing.assert_array_equal(numpy(model(x)), expected)
    ksa.merge(model, quantized="requantize", keep_base=False)
    with pytest.raises(ValueError, match="no merge to undo"):
        ksa.unmerge(model)


def base_of(values, layer):
    """The floats that a layer's weights stood for when they had these values."""
    now = [to_host_exact(w) for w in layer.weights]
    for weight, value in zip(layer.weights, values, strict=True):
        weight.assign(value)
    found = numpy(base_kernel_value(layer))
    for weight, value in zip(layer.weights, now, strict=True):
        weight.assign(value)
    return found


@backend_free
@pytest.mark.parametrize(
    ("mode", "how"),
    [("int8", "float"), ("int4", "requantize"), ("int4 grouped", "float")],
)
def test_a_quantized_language_model_is_merged_and_saved(mode, how, tmp_path):
    model, _ = language_model(mode)
    ksa.enable(model, ksa.LoRA(rank=2), targets="attention")
    shake(model, 0.02)
    x = tokens()
    expected = numpy(model(x))
    ksa.merge(model, quantized=how)
    merged = numpy(model(x))
    assert norm(merged, expected) < 0.2
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for now, then in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(to_host_exact(now), to_host_exact(then))
    # Keras loads the int4 table of an unadapted model with another activation quantizer, too.
    exact = 1e-5 if mode == "int8" else 5e-2
    np.testing.assert_allclose(numpy(loaded(x)), merged, rtol=0, atol=exact)
    ksa.unmerge(model)
    np.testing.assert_array_equal(numpy(model(x)), expected)


STARTS = [("loftq", 1), ("loftq", 3), ("qpissa", 1), ("qpissa", 3)]


@pytest.mark.parametrize(
    ("mode", "kernel", "begin"), combinations(["int8", "int4 grouped"], FEW, STARTS), ids=str
)
def test_an_adapter_makes_up_for_the_rounding(mode, kernel, begin):
    start, iterations = begin
    build, shape = KERNELS[kernel]
    layer = build_layer(build)
    bias = None if layer.bias is None else numpy(layer.bias)
    (site,) = find_sites(layer)
    K, x = site.matrix().astype("float64"), batch(shape)
    how, config = MODES[mode]
    alone = site.view.to_matrix(quantized_kernel(layer, layer.kernel, how, config).floats)
    model = keras.Sequential([keras.Input(shape[1:]), layer])
    method = ksa.LoRA(rank=3, alpha=6)
    report = ksa.quantize(model, how, method, start, iterations, config, layer.name, verbose=0)
    assert mode_of(layer) == how
    Q = find_sites(layer)[0].matrix()
    values = {name: numpy(v).astype("float64") for name, v in layer.adapter().trained.items()}
    A, B = values["lora_a"], values["lora_b"]
    (told,) = report.kernels
    np.testing.assert_allclose(told.alone, norm(alone, K), rtol=1e-3)
    np.testing.assert_allclose(told.error, norm(Q + 2 * A @ B, K), rtol=1e-3)
    assert told.error < told.alone or start == "qpissa"
    if (start, iterations) == ("loftq", 1):
        np.testing.assert_array_equal(Q, alone)
    if start == "loftq":  # what is left of K is nothing that these factors could take
        U, s, Vt = np.linalg.svd(K - Q)
        np.testing.assert_allclose(2 * A @ B, (U[:, :3] * s[:3]) @ Vt[:3], rtol=0, atol=1e-4)
        np.testing.assert_allclose(A.T @ A, B @ B.T, rtol=0, atol=1e-4)
    elif iterations == 1:
        U, s, Vt = np.linalg.svd(K)
        np.testing.assert_allclose(2 * A @ B, (U[:, :3] * s[:3]) @ Vt[:3], rtol=0, atol=1e-4)
    assert bias is None or (numpy(layer.bias) == bias).all()
    assert {w.path for w in model.trainable_weights} == {
        v.path for v in layer.adapter().trained.values()
    }
    plain = build("float32")
    plain.kernel.assign(site.view.from_matrix(keras.ops.convert_to_tensor(K)))
    if bias is not None:
        plain.bias.assign(bias)
    assert norm(numpy(model(x)), numpy(plain(x))) < 0.2


@backend_free
def test_a_compensated_language_model_is_near_its_floats_and_learns(tmp_path):
    model, x = models.gemma(num_layers=1, num_key_value_heads=1), tokens()
    expected = numpy(model(x))
    weights = model.get_weights()
    model.quantize("int4")
    alone = norm(numpy(model(x)), expected)
    for start, iterations in (STARTS[0], STARTS[3]):
        model = models.gemma(num_layers=1, num_key_value_heads=1)
        model.set_weights(weights)
        report = ksa.quantize(model, "int4", ksa.LoRA(rank=4), start, iterations)
        assert norm(numpy(model(x)), expected) < alone
        assert "int4" in str(report)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    losses = model.fit(x, np.roll(x["token_ids"], -1, 1), epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    y = numpy(model(x))
    model.save_weights(tmp_path / "a.weights.h5")
    ksa.save_adapter(model, tmp_path / "a.keras")
    ksa.delete_adapter(model, "default")
    ksa.load_adapter(model, tmp_path / "a.keras")
    np.testing.assert_allclose(numpy(model(x)), y, rtol=0, atol=1e-6)


@backend_free
@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"mode": "float8"}, "`mode` is one of"),
        ({"method": ksa.DoRA(rank=2)}, "LoRA.rank=16"),
        ({"method": ksa.SVF()}, "`model.quantize.mode.`, then `enable`"),
        ({"start": "pissa"}, "`start` is one of"),
        ({"iterations": 0}, "positive integer"),
        ({"targets": "token_embedding"}, "cannot be adapted"),
        ({"targets": "nothing"}, "nothing"),
        ({"method": ksa.LoRA(rank=900)}, "rank"),
        ({"name": "a b"}, "word of letters"),
        ({"mode": "int8", "config": Int4QuantizationConfig()}, "config"),
    ],
)
def test_what_quantize_refuses(how, told):
    model = models.gemma(num_layers=1, num_key_value_heads=1)
    before = {w.path: to_host_exact(w) for w in model.weights}
    how = {"mode": "int4", "method": ksa.LoRA(rank=2), "start": "qpissa"} | how
    with pytest.raises(ValueError, match=told):
        ksa.quantize(model, **how)
    assert {w.path for w in model.weights} == before.keys()
    for weight in model.weights:
        np.testing.assert_array_equal(to_host_exact(weight), before[weight.path])


@backend_free
def test_quantize_wants_floats_without_adapters(monkeypatch):
    model, _ = language_model("int8")
    with pytest.raises(ValueError, match="no longer known.*Received: .*int8"):
        ksa.quantize(model, "int8", ksa.LoRA(rank=2))
    model = models.gemma(num_layers=1, num_key_value_heads=1)
    ksa.enable(model, ksa.LoRA(rank=2))
    with pytest.raises(ValueError, match="`delete_adapter`"):
        ksa.quantize(model, "int8", ksa.LoRA(rank=2), name="other")
    ksa.delete_adapter(model, "default")
    before = model.get_weights()

    def failing(*args, **kwargs):
        raise RuntimeError("no memory")

    monkeypatch.setattr(model, "quantize", failing)
    with pytest.raises(RuntimeError, match="no memory"):
        ksa.quantize(model, "int8", ksa.LoRA(rank=2), start="qpissa")
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


BESIDE = [ksa.LoRA(rank=2), ksa.DoRA(rank=2), ksa.SVF()]


@pytest.mark.parametrize(
    ("method", "mode", "dtype"),
    combinations(BESIDE, MODES, ["mixed_bfloat16", "bfloat16"]),
    ids=str,
)
def test_integers_in_half_precision(method, mode, dtype):
    """An adapter beside integers computes in the dtype that the layer had."""
    layer, _ = quantized("tall", mode, dtype)
    plain = dequantized("tall", layer)
    x = batch((300, 40))
    before = layer(x)
    ksa.enable(layer, method, targets=[layer.name])
    np.testing.assert_array_equal(numpy(layer(x)), numpy(before))
    shake(layer)
    y = layer(x)
    assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"
    assert {w.dtype for w in layer.trainable_weights} == {"float32"}
    (site,) = find_sites(plain)
    values = {name: numpy(v) for name, v in layer.adapter().arrays.items()}
    for weight in plain.weights:
        weight.trainable = False
    adapter = layer.adapter()
    attach(plain, "default", site.new_adapter(adapter.method, adapter.form, "default", values))
    assert norm(numpy(y), numpy(plain(x))) < 5e-2
    g = batch(y.shape, seed=9)
    for found, right in zip(gradients(layer, x, g), gradients(plain, x, g), strict=True):
        assert norm(found, right) < 5e-2


@backend_free
@pytest.mark.parametrize("mode", MODES)
def test_a_loaded_quantized_model_is_merged_and_unmerged(mode, tmp_path):
    """Its layers share one map of dtype policies."""
    model, _ = language_model(mode)
    model.save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    x = tokens()
    ksa.enable(model, ksa.LoRA(rank=2))
    shake(model, 0.02)
    expected = numpy(model(x))
    with pytest.raises(ValueError, match="Merging would change outputs"):
        ksa.merge(model, tolerance=1e-12, probe=x, quantized="float")
    np.testing.assert_array_equal(numpy(model(x)), expected)
    for how in ("float", "requantize"):
        ksa.merge(model, quantized=how)
        model(x)
        ksa.unmerge(model)
        np.testing.assert_array_equal(numpy(model(x)), expected)


FAILING = ["_sha256", "detach", "make_float", "requantized_kernel", "_assign"]


@pytest.mark.parametrize(("how", "what"), combinations(["float", "requantize"], FAILING))
def test_a_failed_merge_of_integers_leaves_the_model(how, what, monkeypatch):
    merging = importlib.import_module("keras_svd_adapters.merging.merge_record")
    layers = [keras.layers.Dense(6, name="a"), keras.layers.Dense(6, name="b")]
    model = keras.Sequential([keras.Input((8,)), *layers])
    model.quantize("int8")
    ksa.enable(model, ksa.LoRA(rank=2), targets=["a", "b"])
    shake(model)
    x = batch((5, 8))
    expected, plain = numpy(model(x)), getattr(merging, what)
    calls = []

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise MemoryError
        return plain(*args, **kwargs)

    monkeypatch.setattr(merging, what, failing)
    try:
        ksa.merge(model, quantized=how)
    except MemoryError:
        monkeypatch.undo()
        np.testing.assert_array_equal(numpy(model(x)), expected)
        ksa.merge(model, quantized=how)
    ksa.unmerge(model)
    np.testing.assert_array_equal(numpy(model(x)), expected)


def test_want_of_memory_for_floats_leaves_the_model(monkeypatch):
    layer, x = quantized("tall", "int8")
    ksa.enable(layer, ksa.LoRA(rank=2), targets=[layer.name])
    shake(layer)
    expected = numpy(layer(x))

    def failing(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(layer, "add_weight", failing)
    with pytest.raises(MemoryError):
        ksa.merge(layer, quantized="float")
    np.testing.assert_array_equal(numpy(layer(x)), expected)


def test_a_layer_of_ours_tells_its_kernel_after_integers_were_merged():
    layer, _ = quantized("tall", "int8")
    wrapped = ksa.LoRADense(layer, rank=2)
    shake(wrapped)
    before = numpy(wrapped.merged_kernel())
    ksa.merge(wrapped, quantized="requantize")
    assert norm(numpy(wrapped.merged_kernel()), before) < 0.02


def test_logits_of_integer_weights_alone_are_left_as_they_are():
    """Keras rounds nothing there but the weights, so their gradient is right."""
    table = keras.layers.ReversibleEmbedding(20, 8)
    table.build()
    table.quantize("int4", config=Int4QuantizationConfig(block_size=None))
    plain = type(table)
    model = keras.Sequential([keras.Input((6,), dtype="int32"), table, keras.layers.Dense(3)])
    ksa.enable(model, ksa.LoRA(rank=2), targets="dense*")
    assert type(table) is plain


def test_logits_around_the_adapted_part_have_a_gradient():
    table = keras.layers.ReversibleEmbedding(20, 8)
    table.build()
    table.quantize("int8")

    class Logits(keras.Model):
        def __init__(self):
            super().__init__()
            self.table = table
            self.inner = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, name="before")])

        def call(self, x):
            return self.table(self.inner(x), reverse=True)

    model = Logits()
    model(batch((5, 6)))
    ksa.enable(model.inner, ksa.LoRA(rank=2), targets="before")
    shake(model.inner)
    x, g = batch((5, 6)), batch((5, 20), seed=9)
    floats = numpy(table(keras.ops.eye(8), reverse=True))
    expected = gradients(model.inner, x, g @ floats.T)
    for found, right in zip(gradients(model, x, g), expected, strict=True):
        assert norm(found, right) < 2e-2
