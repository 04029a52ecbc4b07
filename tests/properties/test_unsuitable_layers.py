"""Layers that take no adapter: a clear error or warning, and the model as it was."""

import warnings

import keras
import models
import numpy as np
import pytest
from snapshots import snapshot

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.adapted_layer import AdaptedLayer
from keras_svd_adapters.models.state.adapted_model import AdaptedModel

backend_free = pytest.mark.backend_free("messages are made of names and shapes")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_kernel_that_is_not_finite(bad):
    backbone, _ = models.bert()
    kernel = backbone.get_layer("transformer_layer_1")._feedforward_output_dense.kernel
    value = kernel.numpy().copy()
    value[3, 4] = bad
    kernel.assign(value)
    before = snapshot(backbone)
    with pytest.raises(ValueError, match="transformer_layer_1/feedforward_output_dense.*Received"):
        ksa.enable(backbone, ksa.SVF())
    assert snapshot(backbone) == before
    assert not any(isinstance(x, (AdaptedLayer, AdaptedModel)) for x in backbone._flatten_layers())


@backend_free
def test_unbuilt_layers():
    with pytest.raises(ValueError, match=r"build it first.*Received"):
        ksa.SVFDense(keras.layers.Dense(3))
    with pytest.raises(ValueError, match="built Dense, EinsumDense or conv.*Received"):
        ksa.LoRADense(keras.layers.Dropout(0.1))
    with pytest.raises(ValueError, match="not built.*Received"):
        ksa.enable(keras.Sequential([keras.layers.Dense(3), keras.layers.Dense(2)]), ksa.SVF())


@backend_free
def test_keras_lora_and_ours_do_not_meet():
    backbone, _ = models.bert()
    backbone.enable_lora(2)
    before = snapshot(backbone)
    with pytest.raises(ValueError, match=r"Keras's own LoRA is enabled.*Received"):
        ksa.enable(backbone, ksa.SVF(), targets="query")
    assert snapshot(backbone) == before
    backbone, _ = models.bert()
    ksa.enable(backbone, ksa.SVF())
    before = snapshot(backbone)
    for call in (lambda: backbone.enable_lora(2), lambda: query(backbone).enable_lora(2)):
        with pytest.raises(ValueError, match="cannot be added.*Received: enable_lora"):
            call()
    assert snapshot(backbone) == before


def query(backbone):
    return backbone.get_layer("transformer_layer_0")._self_attention_layer._query_dense


@backend_free
def test_quantized_layers():
    layer = keras.layers.Dense(4)
    layer.build((None, 8))
    layer.quantize("float8")
    with pytest.raises(ValueError, match=r"quantized \(float8\).*Received"):
        ksa.SVFDense(layer)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8), keras.layers.Dense(2)])
    ksa.enable(model, ksa.SVF())
    with pytest.raises(ValueError, match="merge.*Received: quantize"):
        model.quantize("int8")
    assert all(layer.quantization_mode is None for layer in model.layers)
    ksa.merge(model)
    model.quantize("int8")
    assert model.layers[1].quantization_mode == "int8"


@backend_free
def test_what_is_left_out_is_told():
    model = keras.Sequential([keras.Input((8,)), *[keras.layers.Dense(8) for _ in range(3)]])
    model.layers[0].quantize("float8")
    with pytest.warns(
        UserWarning, match=r"1 of the layers .* quantized \(float8\).*Received: "
    ) as told:
        ksa.enable(model, ksa.SVF())
    assert told[0].filename == __file__
    assert not hasattr(model.layers[0], "active_adapter")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ksa.plan(model, ksa.LoRA(rank=2), exclude=model.layers[0].name)


@backend_free
@pytest.mark.parametrize("method", [ksa.PiSSA(rank=2), ksa.LoRA(rank=2)])
def test_an_integer_kernel(method):
    layer = keras.layers.Dense(4, use_bias=False)
    layer.build((None, 6))
    layer.kernel._dtype = "int8"
    with pytest.raises(ValueError, match=r"its kernel is int8.*Received: "):
        ksa.enable(layer, method)


@backend_free
def test_more_than_one_matrix():
    layer = keras.layers.EinsumDense("bed,edf->bef", output_shape=(3, 5))
    layer.build((None, 3, 4))
    with pytest.raises(ValueError, match=r"every axis.*Received: "):
        ksa.enable(layer, ksa.DoRA(rank=2))
