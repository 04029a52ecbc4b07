"""NF4 kernels go to files of bitsandbytes and come from them, bit for bit."""

from pathlib import Path

import keras
import models
import numpy as np
import pytest
from cases import batch, numpy
from safetensors.numpy import load_file, save_file

import keras_svd_adapters as ksa
from keras_svd_adapters.kernels import nf4
from keras_svd_adapters.kernels.quantized import mode_of
from keras_svd_adapters.models.sites.search import find_sites
from keras_svd_adapters.runtime.host_values import to_host_exact

FILE = Path(__file__).parents[1] / "data" / "bitsandbytes_nf4.safetensors"  # by bitsandbytes 0.50
MODULES = {"one": "double", "two": "single"}
pytestmark = pytest.mark.backend_free("files, and arrays on the host")


def model():
    one, two = keras.Input((128,), name="x"), keras.Input((64,), name="z")
    outputs = [keras.layers.Dense(20, name="one")(one), keras.layers.Dense(12, name="two")(two)]
    return keras.Model([one, two], outputs)


def inputs():
    return [batch((3, 128)), batch((3, 64))]


def test_kernels_are_those_of_bitsandbytes(tmp_path):
    net, theirs = model(), load_file(FILE)
    ksa.import_nf4(net, FILE, MODULES)
    kernels = {name: net.get_layer(layer).kernel for layer, name in MODULES.items()}
    for name, kernel in kernels.items():
        np.testing.assert_allclose(numpy(kernel), theirs[f"{name}.floats"].T, rtol=0, atol=1e-7)
    configs = [net.get_layer(layer).kernel_storage.config for layer in MODULES]
    assert configs == [ksa.NF4Config(), ksa.NF4Config(double=False)]
    ksa.export_nf4(net, tmp_path / "ours.safetensors", MODULES)
    ours = load_file(tmp_path / "ours.safetensors")
    assert {k for k in theirs if k.startswith(("double.weight", "single.weight"))} == ours.keys()
    for name, value in ours.items():
        if value.dtype == "uint8" and "quant_state" not in name:
            np.testing.assert_array_equal(value, theirs[name])
        elif "quant_state" not in name:
            np.testing.assert_allclose(value, theirs[name], rtol=0, atol=1e-7)
    again = model()
    ksa.import_nf4(again, tmp_path / "ours.safetensors", MODULES)
    for now, then in zip(again.weights, net.weights, strict=True):
        np.testing.assert_array_equal(to_host_exact(now), to_host_exact(then))


@pytest.mark.parametrize("name", ["double", "single", "odd"])
def test_kernels_are_quantized_as_there(name):
    theirs = load_file(FILE)
    stored = nf4.quantize(theirs[f"{name}.source"].T, 64, double=name != "single")
    packed = theirs[f"{name}.weight"].ravel()
    np.testing.assert_array_equal(stored[nf4.CODES_OF_KERNEL][: len(packed)], packed)
    np.testing.assert_allclose(stored[nf4.SCALE], theirs[f"{name}.weight.absmax"])
    if name != "single":
        np.testing.assert_allclose(stored[nf4.LARGEST], theirs[f"{name}.weight.nested_absmax"])


def test_scales_in_other_groups_become_floats(tmp_path):
    theirs = load_file(FILE)
    numbers = theirs["double.weight.nested_quant_map"]
    theirs["double.weight.nested_quant_map"] = numbers[::-1].copy()
    theirs["double.weight.absmax"] = 255 - theirs["double.weight.absmax"]
    save_file(theirs, tmp_path / "other.safetensors")
    net = model()
    ksa.import_nf4(net, tmp_path / "other.safetensors", MODULES)
    assert net.get_layer("one").kernel_storage.config == ksa.NF4Config(double=False)
    found = numpy(net.get_layer("one").kernel)
    np.testing.assert_allclose(found, theirs["double.floats"].T, rtol=0, atol=1e-7)


def test_a_language_model_is_exchanged_and_adapted(tmp_path):
    backbone, x = models.llama(num_layers=1)
    weights = backbone.get_weights()
    ksa.quantize(backbone, "nf4", verbose=0)
    ksa.export_nf4(backbone, tmp_path / "a.safetensors")
    names = load_file(tmp_path / "a.safetensors")
    assert "model.layers.0.self_attn.q_proj.weight.absmax" in names
    other, _ = models.llama(num_layers=1)
    other.set_weights(weights)
    ksa.import_nf4(other, tmp_path / "a.safetensors")
    np.testing.assert_array_equal(models.output(other(x)), models.output(backbone(x)))
    assert {mode_of(s.layer) for s in find_sites(other) if s.name != "token_embedding"} == {"nf4"}
    ksa.enable(other, ksa.LoRA(rank=2))
    assert other.trainable_weights


def test_what_does_not_fit_is_refused(tmp_path):
    net = model()
    with pytest.raises(ValueError, match="call `quantize.*Received"):
        ksa.export_nf4(net, tmp_path / "a.safetensors", MODULES)
    with pytest.raises(ValueError, match="no NF4 kernel.*Received"):
        ksa.import_nf4(net, FILE, {"one": "nowhere"})
    with pytest.raises(ValueError, match="of its shape.*Received"):
        ksa.import_nf4(net, FILE, {"one": "single", "two": "double"})
    before = [numpy(y) for y in net(inputs())]
    ksa.enable(net, ksa.LoRA(rank=2), targets="two")
    with pytest.raises(ValueError, match="without adapters.*Received"):
        ksa.import_nf4(net, FILE, MODULES)
    for y, then in zip(net(inputs()), before, strict=True):
        np.testing.assert_array_equal(numpy(y), then)
