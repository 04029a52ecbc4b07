"""`quantize` with adapters that make up for the rounding."""

import keras
import models
import numpy as np
import pytest
from cases import KERNELS, batch, build_layer, combinations, numpy
from keras.quantizers import Int4QuantizationConfig
from quantized_layers import FEW, MODES, language_model, norm, tokens

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.storages.registry import quantized_kernel
from keras_svd_adapters.kernels.quantized import mode_of
from keras_svd_adapters.models.sites.search import find_sites
from keras_svd_adapters.runtime.host_values import to_host_exact

backend_free = pytest.mark.backend_free("whole models of layers that each backend tests")


STARTS = [("loftq", 1), ("loftq", 3), ("qpissa", 1), ("qpissa", 3)]


@pytest.mark.parametrize(
    ("mode", "kernel", "begin"), combinations(["int8", "int4 grouped", "nf4"], FEW, STARTS), ids=str
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
        ({"method": ksa.SVF()}, "`quantize.model, mode.`, then `enable`"),
        ({"start": "pissa"}, "`start` is one of"),
        ({"iterations": 0}, "positive integer"),
        ({"targets": "token_embedding"}, "cannot be adapted"),
        ({"targets": "nothing"}, "nothing"),
        ({"method": ksa.LoRA(rank=900)}, "rank"),
        ({"name": "a b"}, "word of letters"),
        ({"mode": "int8", "config": Int4QuantizationConfig()}, "config"),
        ({"mode": "nf4", "config": Int4QuantizationConfig()}, "NF4Config"),
        ({"method": None, "targets": "attention"}, "leave them out"),
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
