"""Bad arguments: a clear error that ends in `Received: ...`, and the model as it was."""

import keras
import models
import numpy as np
import pytest
from snapshots import snapshot

import keras_svd_adapters as ksa

backend_free = pytest.mark.backend_free("messages are made of names and shapes")


@backend_free
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ksa.LoRA(rank=0), "rank=0"),
        (lambda: ksa.LoRA(rank=2.5), "rank=2.5"),
        (lambda: ksa.LoRA(dropout=1.0), "dropout=1.0"),
        (lambda: ksa.LoRA(alpha=-1), "alpha=-1"),
        (lambda: ksa.LoRAXS(alpha=0), "alpha=0"),
        (lambda: ksa.VeRA(d_initial=0), "d_initial=0"),
        (lambda: ksa.SVF(formulation="fast"), "formulation='fast'"),
        (lambda: ksa.SVFT(pattern="diagonal"), "pattern='diagonal'"),
        (lambda: ksa.SVFT(d=2), "pattern='plain', d=2"),
        (lambda: ksa.SVFT(pattern="banded"), "d=0"),
        (lambda: ksa.SVFT(pattern="banded", d=-1), "d=-1"),
        (lambda: ksa.SVFT(pattern="banded", d=1, nnz=5), "nnz=5"),
        (lambda: ksa.SVFT(pattern="random", d=1, nnz=5), "nnz=5"),
        (lambda: ksa.SVFT(pattern="random", nnz=0), "nnz=0"),
        (lambda: ksa.SVFT(pattern="banded", d=1, seed=3), "seed=3"),
        (lambda: ksa.methods.OFT(block_size=1), "block_size=1"),
        (lambda: ksa.methods.BOFT(block_size=3), "block_size=3"),
        (lambda: ksa.methods.BOFT(factors=0), "factors=0"),
        (lambda: ksa.methods.HRA(rank=3), "rank=3"),
        (lambda: ksa.methods.HRA(rank=0, orthogonal=True), "rank=0"),
        (lambda: ksa.methods.TiedLoRA(seed=-1), "seed=-1"),
        (lambda: ksa.methods.LoTR(alpha=0), "alpha=0"),
        (lambda: ksa.methods.RandLoRA(seed=0.5), "seed=0.5"),
        (lambda: ksa.methods.NOLA(bases=0), "bases=0"),
        (lambda: ksa.methods.VBLoRA(vector_length=0), "vector_length=0"),
        (lambda: ksa.methods.IntrinsicDimension(size=0), "size=0"),
    ],
)
def test_hyperparameters(make, words):
    with pytest.raises(ValueError, match="Received: ") as caught:
        make()
    assert words in str(caught.value).split("Received: ")[1]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"method": ksa.LoRA(rank=17)}, ["rank 16 at the most", "Received: rank=17"]),
        ({"method": ksa.methods.RandLoRA(rank=17)}, ["rank 16 at the most", "Received: rank=17"]),
        ({"method": ksa.SVFT(pattern="banded", d=16)}, ["`d` can be 15", "Received: d=16"]),
        ({"method": ksa.SVFT(pattern="random", nnz=257)}, ["nnz=256", "Received: nnz=257"]),
        ({"method": ksa.SVFT(pattern="top_k", d=1)}, ["square", "Received: pattern='top_k'"]),
        ({"method": ksa.SVFT}, ["not a class", "Received: method="]),
        ({"method": None}, ["Received: method=None"]),
        ({"method": ksa.SVF(), "targets": "nothing"}, ["Received: targets='nothing'"]),
        ({"method": ksa.SVF(), "train": "nothing"}, ["Received: train='nothing'"]),
        ({"method": ksa.SVF(), "name": "two words"}, ["Received: name='two words'"]),
        ({"method": ksa.SVF(), "verbose": 7}, ["Received: verbose=7"]),
    ],
)
def test_enable_refuses_and_touches_nothing(how, words):
    backbone, x = models.bert()
    before, y = snapshot(backbone), models.output(backbone(x))
    with pytest.raises(ValueError, match="Received: ") as caught:
        ksa.enable(backbone, **how)
    for word in words:
        assert word in str(caught.value)
    assert snapshot(backbone) == before
    np.testing.assert_array_equal(models.output(backbone(x)), y)


def test_what_cannot_train_besides():
    model, _, _ = models.classifier()
    before = snapshot(model)
    with pytest.raises(ValueError, match="names `.*query`, which is adapted.*Received: train="):
        ksa.enable(model, ksa.SVF(), train="query")
    assert snapshot(model) == before
    ksa.enable(model, ksa.SVF(), "key", train=["head", "query/bias"])
    before = snapshot(model)
    with pytest.raises(ValueError, match="trains with the adapter 'default', which.*Received"):
        ksa.enable(model, ksa.LoRA(rank=1), targets="value", train="head", name="second")
    assert snapshot(model) == before


VERBS = {
    "merge": ksa.merge,
    "save": lambda model: ksa.save_adapter(model, "nowhere.keras"),
    "disabled": lambda model: ksa.disabled(model).__enter__(),
    "set": lambda model: ksa.set_adapter(model, "pirate"),
    "delete": lambda model: ksa.delete_adapter(model, "pirate"),
}


@backend_free
@pytest.mark.parametrize("verb", VERBS)
def test_verbs_on_a_plain_model(verb):
    backbone, _ = models.bert()
    with pytest.raises(ValueError, match="has no adapter: `enable` one first. Received: "):
        VERBS[verb](backbone)


@backend_free
def test_a_method_that_no_target_has_a_use_for():
    backbone, _ = models.bert()
    with pytest.raises(ValueError, match="has its own method.*Received: method=LoRA"):
        ksa.enable(backbone, ksa.LoRA(rank=2), targets={"attention": ksa.SVF()})


@backend_free
@pytest.mark.parametrize(
    "swapped",
    [
        lambda model: ksa.enable(ksa.SVF(), model),
        lambda model: ksa.save_adapter("a.keras", model),
        lambda model: ksa.status("a.keras"),
        lambda model: ksa.load_adapter("a.keras", model),
        lambda model: ksa.load_adapter(model, model),
    ],
)
def test_arguments_in_the_wrong_order(swapped):
    with pytest.raises(ValueError, match="first argument must be|`filepath` is the path"):
        swapped(models.bert()[0])


@backend_free
@pytest.mark.parametrize("train", [True, 3, [True]])
def test_train_that_names_nothing(train):
    backbone, _ = models.bert()
    with pytest.raises(ValueError, match="`train` names layers or weights.*Received: train="):
        ksa.enable(backbone, ksa.SVF(), train=train)


@backend_free
def test_a_layer_as_a_target():
    backbone, _ = models.bert()
    for target in (backbone.layers[-1], keras.layers.Dense):
        with pytest.raises(ValueError, match="is a layer's name.*Received: "):
            ksa.enable(backbone, ksa.SVF(), targets=target)


@backend_free
def test_what_a_merged_model_says():
    backbone, _ = models.bert()
    ksa.enable(backbone, ksa.PiSSA(rank=1))
    assert "nan" not in str(ksa.status(backbone))
    ksa.merge(backbone)
    with pytest.raises(ValueError, match="it was merged, and `unmerge`"):
        ksa.merge(backbone)
    ksa.unmerge(backbone)
    with pytest.raises(ValueError, match="was undone already"):
        ksa.unmerge(backbone)
    assert ksa.status(backbone).adapters
