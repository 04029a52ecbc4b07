"""Keras traces a model for its shapes alone: the adapter of a layer that is called does no work."""

import keras
import pytest
from keras import layers

import keras_svd_adapters as ksa
from keras_svd_adapters import methods
from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.runtime.keras_private.tracing import trace_shapes

WIDE, IMAGE = keras.Input((6, 8)), keras.Input((6, 6, 2))
IDS = keras.Input((6,), dtype="int32")
KINDS = {
    "dense": (lambda **dtype: layers.Dense(4, **dtype), [WIDE], ksa.SVFT("banded", d=2)),
    "einsum": (
        lambda **dtype: layers.EinsumDense("abc,cde->abde", (None, 2, 3), **dtype),
        [WIDE],
        ksa.LoRA(rank=2, dropout=0.5),
    ),
    "convolution": (
        lambda **dtype: layers.Conv2D(4, 3, data_format="channels_last", **dtype),
        [IMAGE],
        ksa.SVF(),
    ),
    "embedding": (lambda **dtype: layers.Embedding(9, 8, **dtype), [IDS], ksa.DoRA(rank=2)),
    "attention": (
        lambda **dtype: layers.MultiHeadAttention(2, 4, name="alone", **dtype),
        [WIDE, WIDE],
        methods.PrefixTuning(length=3),
    ),
}


def spec(tensor):
    return tensor.shape, tensor.dtype


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_does_no_work_for_shapes(kind, dtype, monkeypatch):
    make, inputs, method = KINDS[kind]
    layer = make(dtype=dtype)
    model = keras.Model(inputs[0], layer(*inputs))
    frozen = spec(trace_shapes(layer, *inputs))
    ksa.enable(model, method, targets=layer.name, verbose=0)

    def refuse(*args, **kwargs):
        raise AssertionError("the adapter computes")

    monkeypatch.setattr(Adapter, "adapt", refuse)
    assert spec(trace_shapes(layer, *inputs)) == frozen
    values = [keras.ops.ones((2, *tensor.shape[1:]), tensor.dtype) for tensor in inputs]
    with pytest.raises(AssertionError, match="the adapter computes"):
        layer(*values)
