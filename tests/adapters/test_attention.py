"""Attention layers with adapters: their outputs, in each family, against NumPy."""

import functools

import keras
import numpy as np
import pytest
from attention_models import FAMILIES, inputs
from cases import numpy, shake

import keras_svd_adapters as ksa
from keras_svd_adapters import methods
from keras_svd_adapters.adapters.layers.attention import AdaptedAttention
from keras_svd_adapters.models.sites.search import find_sites

L = keras.layers
METHODS = {
    "prefix": methods.PrefixTuning(length=3, std=1.0),
    "prefix_hidden": methods.PrefixTuning(length=3, hidden=5),
    "adaption_prompt": methods.AdaptionPrompt(length=3),
}
families = pytest.mark.parametrize("name", FAMILIES)


def softmax(scores, mask):
    powers = np.where(mask, np.exp(scores - scores.max(axis=-1, keepdims=True)), 0.0)
    return powers / np.maximum(powers.sum(axis=-1, keepdims=True), 1e-30)  # 0 if all are masked


def mask_of(call, window=None):
    """Which keys each query reads."""
    q, k, _, mask = call
    shape = len(q), q.shape[1], k.shape[1]
    mask = np.ones(shape, bool) if mask is None else np.broadcast_to(mask.astype(bool), shape)
    distance = np.subtract.outer(np.arange(shape[1]), np.arange(shape[2]))
    return mask if window is None else mask & (np.abs(distance) < window)


def attention(call, size, cap=None, window=None, prefix=None, alone=False):
    """Attention of queries to keys, with an optional prefix `(2, p, heads, size)`, in NumPy."""
    q, k, v, _ = call
    mask = mask_of(call, window)
    if prefix is not None:
        pairs = [np.repeat(each[None], len(q), axis=0) for each in prefix]
        pairs = [np.repeat(each, k.shape[2] // each.shape[2], axis=2) for each in pairs]
        free = np.ones((*mask.shape[:2], pairs[0].shape[1]), bool)
        k, v = (p if alone else np.concatenate([p, x], axis=1) for p, x in zip(pairs, (k, v)))
        mask = free if alone else np.concatenate([free, mask], axis=-1)
    k, v = (np.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(size)
    scores = scores if cap is None else cap * np.tanh(scores / cap)
    return np.einsum("bhqk,bkhd->bqhd", softmax(scores, mask[:, None]), v)


class Recorder:
    """The arguments and outputs of the attention of a layer."""

    def __init__(self, monkeypatch, layer):
        kind = next(c for c in type(layer).__mro__ if "_compute_attention" in vars(c))
        own = kind._compute_attention
        self.calls = []

        @functools.wraps(own)
        def compute(one, *args, **kwargs):
            if one is layer:
                given = dict(zip(("q", "k", "v", "mask"), args)) | kwargs
                q, k, v, mask = [
                    next((given[n] for n in names if n in given), None)
                    for names in (("q", "query"), ("k", "key"), ("v", "value"), ("mask",))
                ]
                mask = given.get("attention_mask", mask)
                mask = None if mask is None else keras.ops.convert_to_numpy(mask)
                call = [*(numpy(x).copy() for x in (q, k, v)), mask]
            y = own(one, *args, **kwargs)
            if one is layer:
                self.calls.append((call, numpy(y[0] if isinstance(y, tuple) else y)))
            return y

        monkeypatch.setattr(kind, "_compute_attention", compute)


@families
def test_a_prefix_in_each_family(name, monkeypatch):
    """And the rows of an adaption prompt, which are projected as tokens without positions are."""
    family, x = FAMILIES[name], inputs(name)
    model = family.build()
    layer = find_sites(model, "attention")[0].layer
    recorder = Recorder(monkeypatch, layer)
    model(x)
    (plain, y), how = recorder.calls.pop(), {"size": family.size, "cap": family.cap}
    how["window"] = family.window
    kept = np.any(mask_of(plain, family.window), axis=-1)
    close = lambda a, b: np.testing.assert_allclose(a[kept], b[kept], atol=2e-5)  # noqa: E731
    close(y, attention(plain, **how))

    ksa.enable(model, METHODS["prefix"], name="prefix")
    assert isinstance(layer, AdaptedAttention)
    model(x)
    adapter = layer.adapter_prefix
    shape = (3, -1, family.size)
    prefix = np.stack([numpy(adapter.keys).reshape(shape), numpy(adapter.values).reshape(shape)])
    close(recorder.calls.pop()[1], attention(plain, prefix=prefix, **how))

    ksa.enable(model, METHODS["adaption_prompt"], name="rows")
    shake(model)
    recorder.calls.clear()
    after = model_output(model, x)
    added = [y for _, y in recorder.calls]
    rows = layer.adapter_rows.prompt[None]
    keys, values = (getattr(layer, n, None) for n in ("key_dense", "value_dense"))
    if keys is None:
        keys, values = layer._key_dense, layer._value_dense
    key = keys(rows)
    for norm in ("_key_dense_layer_norm", "key_norm"):
        key = getattr(layer, norm)(key) if hasattr(layer, norm) else key
    prefix = np.concatenate([numpy(key), numpy(values(rows))])
    del how["window"]
    assert len(added) == 2
    close(added[0], y)
    np.testing.assert_allclose(
        added[1], attention(plain, prefix=prefix, alone=True, **how), atol=2e-5
    )
    with ksa.disabled(model):
        assert np.abs(model_output(model, x) - after).max() > 1e-4


def model_output(model, x):
    y = model(x)
    return numpy(y["sequence_output"] if isinstance(y, dict) else y)
