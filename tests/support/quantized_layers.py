"""Layers and a language model with quantized kernels, and the floats that they stand for."""

import keras
import models
import numpy as np
from cases import KERNELS, batch, numpy
from keras.quantizers import Int4QuantizationConfig

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.layer_kinds import base_kernel_value
from keras_svd_adapters.adapters.storages.registry import STORAGES
from keras_svd_adapters.models.sites.search import find_sites

MODES = {
    "int8": ("int8", None),
    "int4": ("int4", Int4QuantizationConfig(block_size=None)),
    "int4 grouped": ("int4", Int4QuantizationConfig(block_size=8)),
    "nf4": ("nf4", ksa.NF4Config(block_size=16)),
}
TOLERANCE = {"int8": 2e-2, "int4": 5e-2, "nf4": 1e-5}
FEW = ("tall", "btd,ndh->btnh")


def quantized(kernel, mode, dtype="float32"):
    """A quantized layer, and an input."""
    build, shape = KERNELS[kernel]
    layer = build(dtype)
    layer.kernel.assign(batch(layer.kernel.shape, seed=5))
    if layer.bias is not None:
        layer.bias.assign(batch(layer.bias.shape, seed=6))
    how, config = MODES[mode]
    STORAGES[how].store(layer, config)
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
