"""Layers and a language model with quantized kernels, and the floats that they stand for."""

import keras
import models
import numpy as np
from cases import KERNELS, batch, numpy
from keras.quantizers import Int4QuantizationConfig

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.layer_kinds import base_kernel_value
from keras_svd_adapters.adapters.storages.registry import STORAGES
from keras_svd_adapters.kernels.quantized import stored_weights
from keras_svd_adapters.models.sites.search import find_sites

MODES = {
    "int8": ("int8", None),
    "int4": ("int4", Int4QuantizationConfig(block_size=None)),
    "int4 grouped": ("int4", Int4QuantizationConfig(block_size=8)),
    "nf4": ("nf4", ksa.NF4Config(block_size=16)),
}
IN_LAYERS = {**MODES, "gptq": ("gptq", None), "awq": ("awq", None)}  # calibrated one by one
TOLERANCE = {"int8": 2e-2, "int4": 5e-2, "nf4": 1e-5, "gptq": 1e-5, "awq": 1e-5}
FEW = ("tall", "btd,ndh->btnh")


def quantized(kernel, mode, dtype="float32"):
    """A quantized layer, and an input."""
    build, shape = KERNELS[kernel]
    layer = build(dtype)
    layer.kernel.assign(batch(layer.kernel.shape, seed=5))
    if layer.bias is not None:
        layer.bias.assign(batch(layer.bias.shape, seed=6))
    how, config = IN_LAYERS[mode]
    if how in STORAGES:
        STORAGES[how].store(layer, config)
    else:
        calibrate(layer, how)
    return layer, batch(shape)


def calibrate(layer, mode):
    """Give a layer random integers, as Keras's GPTQ and AWQ do after a pass of data."""
    what = {"dataset": [0], "tokenizer": len, "group_size": 8}
    kinds = {"gptq": keras.quantizers.GPTQConfig, "awq": keras.quantizers.AWQConfig}
    layer.quantize(mode, config=kinds[mode](**what))
    rng = np.random.default_rng(7)
    stored = stored_weights(layer)
    zero = stored.pop("kernel_zero" if "kernel_zero" in stored else "zero_point")
    integers, groups = layer.quantized_kernel, stored["g_idx"]
    integers.assign(rng.integers(0, 256, integers.shape))
    zero.assign(rng.integers(5, 11, zero.shape))
    groups.assign(rng.permutation(np.arange(groups.shape[0]) // 8))
    for name in {"kernel_scale", "awq_scales"} & stored.keys():
        stored[name].assign(rng.uniform(0.05, 0.2, stored[name].shape))
    del layer._kernel
    setattr(layer, f"is_{mode}_calibrated", True)


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


def language_model(mode):
    """A language model, quantized, and one of floats with the same values."""
    keras.utils.set_random_seed(4)
    model, floats = (models.gemma(num_layers=1, num_key_value_heads=1) for _ in range(2))
    floats.set_weights(model.get_weights())
    how, config = MODES[mode]
    ksa.quantize(model, how, config=config, verbose=0)
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
