"""VB-LoRA: pieces of factors from one bank, chosen by the largest logits."""

import closed_forms_shared as shared
import keras
import models
import numpy as np
import pytest
import test_gradient
from autodiff import gradients
from cases import KERNELS, batch, build_layer, dense, numpy, wrapped_layer
from method_case import MethodCase
from snapshots import snapshot

import keras_svd_adapters as ksa
from keras_svd_adapters import methods

ONE_BANK = methods.VBLoRA(rank=2, vectors=5, vector_length=2, one_bank=True)


@pytest.mark.parametrize("kernel", ["tall", "wide", "btd,df->btf"])
def test_one_bank_against_closed_form(kernel):
    test_gradient.test_against_closed_form(MethodCase(ONE_BANK, shared.vblora), *KERNELS[kernel])


def test_one_bank_starts_near_the_base_and_the_default_at_it():
    """The paper's start: about a hundredth of a kernel of trained size."""
    layer = build_layer(dense(512, 512)[0])
    layer.kernel.assign(np.random.default_rng(0).normal(0, 0.02, (512, 512)))
    before = numpy(layer.kernel)
    moves = {}
    for one_bank in (True, False):
        method = methods.VBLoRA(one_bank=one_bank)
        status = ksa.enable(layer, method, name=f"bank_{one_bank}")
        assert ("away from the base" in str(status)) == one_bank
        change = numpy(layer.merged_kernel()) - before
        moves[one_bank] = np.linalg.norm(change) / np.linalg.norm(before)
    assert 3e-3 < moves[True] < 2e-2
    assert moves[False] == 0


@pytest.mark.parametrize("equal", [False, True])
def test_only_the_chosen_logits_have_gradients(equal):
    """Exactly `top_k` of them, also if all are equal."""
    method = methods.VBLoRA(rank=2, vectors=7, vector_length=4, top_k=3)
    layer = wrapped_layer(method, build_layer(dense(12, 8)[0]))
    adapter = layer.base_layer.adapter()
    arrays = adapter.arrays
    arrays["bank_b"].assign(np.random.default_rng(0).normal(size=(7, 4)))
    if equal:
        for name in ("logits_a", "logits_b"):
            arrays[name].assign(np.ones(arrays[name].shape))
    mixtures = numpy(
        method.mixtures(keras.ops.convert_to_tensor(arrays["logits_a"]), keras.ops.eye(7))
    )
    assert ((mixtures > 0).sum(-1) == 3).all()
    np.testing.assert_allclose(mixtures.sum(-1), 1, atol=1e-6)
    found = gradients(layer, batch((5, 12)), batch((5, 8), seed=4))
    by_name = dict(zip([w.name for w in layer.trainable_weights], found, strict=True))
    for name in ("logits_a", "logits_b"):
        assert ((by_name[name] != 0).sum(-1) == 3).all()


def test_float32_in_half_precision(monkeypatch):
    """The weights of a mixture are of float32, whatever the layer computes in."""
    dtypes, original = [], methods.VBLoRA.mixtures

    def mixtures(self, logits, bank):
        found = original(self, logits, bank)
        dtypes.extend(keras.backend.standardize_dtype(a.dtype) for a in (logits, bank, found))
        return found

    monkeypatch.setattr(methods.VBLoRA, "mixtures", mixtures)
    method = methods.VBLoRA(rank=2, vectors=7, vector_length=4)
    layer = wrapped_layer(method, build_layer(dense(12, 8)[0], "bfloat16"))
    assert keras.backend.standardize_dtype(layer(batch((3, 12))).dtype) == "bfloat16"
    assert dtypes
    assert set(dtypes) == {"float32"}


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (methods.VBLoRA(vector_length=12), ["`vector_length=", "Received: vector_length=12"]),
        (methods.VBLoRA(rank=17, vector_length=2), ["rank 16 at the most", "Received: rank=17"]),
    ],
)
def test_sizes_that_do_not_suit(method, words):
    model, _ = models.bert()
    before = snapshot(model)
    with pytest.raises(ValueError, match="Received: ") as caught:
        ksa.enable(model, method)
    assert all(word in str(caught.value) for word in words)
    assert snapshot(model) == before


def test_more_chosen_than_there_are():
    with pytest.raises(ValueError, match=r"1 to 4\. Received: top_k=5"):
        methods.VBLoRA(vectors=4, top_k=5)
